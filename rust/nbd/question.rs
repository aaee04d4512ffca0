//! A question about extents, and as much of its answer as is to be believed.

use std::collections::BTreeMap;

/// Extents that an answer may have in one context: as many as QEMU ever sends (`NBD_MAX_BLOCK_STATUS_EXTENTS`).
const MOST: usize = (1 << 20) / 8;

/// A range of an export with its flags in one context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub length: u64,
    /// The context's flags.
    pub flags: u32,
}

/// What the server said of a range: by context, extents that follow each other from its beginning on.
pub type Status = BTreeMap<String, Vec<Extent>>;

/// What was asked, and what was answered so far.
#[derive(Debug)]
pub struct Question {
    contexts: Vec<String>,
    length: u64,
    /// Bytes to the export's end.
    beyond: u64,
    status: Status,
    refused: Option<String>,
}

impl Question {
    /// About `length` bytes, in these contexts; the export ends `beyond` bytes after their beginning.
    pub fn new(contexts: Vec<String>, length: u64, beyond: u64) -> Question {
        Question { contexts, length, beyond, status: Status::new(), refused: None }
    }

    /// Takes note of one context's extents: length and flags in turn. False when they, or any before, are refused; nothing is
    /// kept of them.
    pub fn take(&mut self, context: &[u8], entries: &[u32]) -> bool {
        if self.refused.is_none()
            && let Err(why) = self.believe(context, entries)
        {
            self.status.clear();
            self.refused = Some(why);
        }
        self.refused.is_none()
    }

    fn believe(&mut self, context: &[u8], entries: &[u32]) -> Result<(), String> {
        let Some(name) = self.contexts.iter().find(|name| name.as_bytes() == context) else {
            return Err("it answers in a context that it was not asked about".to_owned());
        };
        if self.status.contains_key(name) {
            return Err(format!("it answers twice about '{name}'"));
        }
        let (pairs, rest) = entries.as_chunks::<2>();
        if pairs.is_empty() || !rest.is_empty() || pairs.len() > MOST {
            return Err(format!("its answer about '{name}' has {} numbers", entries.len()));
        }
        let mut at = 0;
        for [length, _] in pairs {
            if *length == 0 {
                return Err(format!("an extent of '{name}' has no length"));
            }
            // the last may go on beyond what was asked for (NBD protocol, NBD_CMD_BLOCK_STATUS)
            if at >= self.length || at + u64::from(*length) > self.beyond {
                return Err(format!("its answer about '{name}' goes on beyond the range"));
            }
            at += u64::from(*length);
        }
        let extents = pairs.iter().map(|[length, flags]| Extent { length: u64::from(*length), flags: *flags });
        self.status.insert(name.clone(), extents.collect());
        Ok(())
    }

    /// Why the answer is not to be believed.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Extents that are kept.
    pub fn kept(&self) -> usize {
        self.status.values().map(Vec::len).sum()
    }

    /// The extents of each context that was answered in, or why none of them is to be believed.
    pub fn answer(self) -> Result<Status, String> {
        match self.refused {
            Some(why) => Err(why),
            None => Ok(self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question::new(vec!["a".to_owned(), "b".to_owned()], 1 << 20, (1 << 20) + 512)
    }

    #[test]
    fn an_answer_of_each_context_is_kept() {
        let mut question = question();
        assert!(question.take(b"a", &[4096, 1, (1 << 20) - 4096 + 512, 0]));
        assert!(question.take(b"b", &[512, 3]));
        assert_eq!(question.kept(), 3);
        let status = question.answer().unwrap();
        assert_eq!(status["b"], [Extent { length: 512, flags: 3 }]);
    }

    #[test]
    fn what_is_not_to_be_believed_is_refused_and_not_kept() {
        let long: Vec<u32> = [1, 0].repeat(MOST + 1);
        let rows: [(&[u8], &[u32], &str); 9] = [
            (b"c", &[512, 0], "not asked about"),
            (b"a\xff\n", &[512, 0], "not asked about"),
            (b"a", &[512, 0], "twice about 'a'"),
            (b"b", &[], "has 0 numbers"),
            (b"b", &[512, 0, 512], "has 3 numbers"),
            (b"b", &long, "has 262146 numbers"),
            (b"b", &[512, 0, 0, 0], "no length"),
            (b"b", &[1 << 20, 0, 1, 0], "beyond the range"),
            (b"b", &[u32::MAX, 0], "beyond the range"),
        ];
        for (context, entries, why) in rows {
            let mut question = question();
            assert!(question.take(b"a", &[512, 0]));
            assert!(!question.take(context, entries), "{why}");
            assert!(question.refused().unwrap().contains(why), "{question:?}");
            assert!(!question.take(b"b", &[512, 0]), "nothing is taken any more");
            assert_eq!(question.kept(), 0);
            assert!(question.answer().is_err());
        }
    }
}
