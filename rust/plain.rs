//! Text as it leaves this library, in log lines, errors and answers. Much of it was written by others: names on the NAS, a
//! guest's agent, tools, libvirt. A terminal or a log's reader must not take a part of it for more than text.

use std::borrow::Cow;
use std::fmt::Write;

/// Bytes of one text that are told; nobody reads a longer one.
const LONGEST: usize = 16 << 10;

/// Lines of one answer that are told.
const MOST_LINES: usize = 100;

/// The text on one line, without characters that do something rather than show: control characters are escaped, and so are
/// those that turn the direction of what follows, or have no width. A text that is too long is cut, and says so.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST && !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::new();
    for (at, c) in text.char_indices() {
        if plain.len() + ESCAPED > LONGEST {
            _ = write!(plain, "... and {} bytes more", text.len() - at);
            break;
        }
        if acts(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    Cow::Owned(plain)
}

/// The lines, each plain, as one text. What is beyond the first so many is counted.
pub fn plain_lines(lines: &[String]) -> String {
    let more = lines.len().saturating_sub(MOST_LINES);
    let mut told: Vec<_> = lines.iter().take(MOST_LINES).map(|line| plain(line)).collect();
    if more > 0 {
        told.push(format!("... and {more} lines more").into());
    }
    told.join("\n")
}

/// JSON that means the same, in which such characters are escaped. A line break is between its values, or escaped already.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    let acts = |c| c != '\n' && acts(c);
    if !json.contains(acts) {
        return Cow::Borrowed(json);
    }
    let mut plain = String::new();
    for c in json.chars() {
        if acts(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(plain, "\\u{unit:04x}"));
        } else {
            plain.push(c);
        }
    }
    Cow::Owned(plain)
}

/// The most bytes that one character becomes, and what says that there was more.
const ESCAPED: usize = 64;

/// Does the character do something rather than show?
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Bytes, as `1.50 GiB`.
pub fn size(bytes: u64) -> String {
    let unit = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, bits)| bytes >> bits > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(unit, bits)| format!("{:.2} {unit}", bytes as f64 / (1_u64 << bits) as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_stays_as_it_is() {
        for text in ["", "disk 'vda': \\n 'ä ö' 漢字 \u{1f4be} \"<&>\" C:\\x", &"x".repeat(LONGEST)] {
            assert!(matches!(plain(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn what_acts_is_escaped() {
        for (text, shown) in [
            ("a\nERROR forged\r\t", "a\\nERROR forged\\r\\t"),
            ("\u{1b}[2Jx\u{7}\0\u{7f}", "\\u{1b}[2Jx\\u{7}\\u{0}\\u{7f}"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("T1\u{202e}2wocq\u{2066}\u{200f}\u{feff}\u{2028}", "T1\\u{202e}2wocq\\u{2066}\\u{200f}\\u{feff}\\u{2028}"),
        ] {
            assert_eq!(plain(text), shown);
            assert_eq!(plain(shown), shown, "what is plain stays so");
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({"a\u{9b}": ["\u{1b}[2J\n", "\u{202e}\u{7f}\u{e0041}", "\u{e4}"]});
        let plain = plain_json(&serde_json::to_string_pretty(&value).unwrap()).into_owned();
        assert!(plain.contains("\\u009b") && plain.contains("\\udb40\\udc41") && plain.contains('\u{e4}'), "{plain}");
        assert!(!plain.contains(|c| c != '\n' && acts(c)), "{plain:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&plain).unwrap(), value);
        assert!(matches!(plain_json("{\n}"), Cow::Borrowed("{\n}")));
    }

    #[test]
    fn lines_stay_lines_and_are_counted_beyond_their_bound() {
        let lines = ["one", "two\nforged"].map(str::to_owned);
        assert_eq!(plain_lines(&lines), "one\ntwo\\nforged");
        let many = vec!["x".to_owned(); MOST_LINES + 7];
        assert!(plain_lines(&many).ends_with("x\n... and 7 lines more"));
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        for text in ["x".repeat(LONGEST + 1), "\u{1b}".repeat(1 << 20), "漢".repeat(LONGEST)] {
            let shown = plain(&text);
            assert!(shown.len() <= LONGEST && shown.ends_with(" bytes more"), "{}", shown.len());
            assert_eq!(plain(&shown), shown);
        }
    }
}
