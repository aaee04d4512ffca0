//! The way down a chain, from each image to the one that it stands on.

use std::collections::HashSet;

/// Follows a chain of at most `most` images from `top` down. `look` makes a link of an image, or says what is wrong with it, and
/// tells what the image stands on; `endless` says what it means that the chain comes to an image again, or to one too many.
/// Images are told apart by `name`: there are file systems that give all files one number.
pub fn follow<T, L, E>(
    top: T,
    most: usize,
    name: impl Fn(&T) -> &str,
    mut look: impl FnMut(T) -> Result<(L, Option<T>), E>,
    endless: impl FnOnce(T) -> E,
) -> Result<Vec<L>, E> {
    let (mut links, mut seen, mut next) = (Vec::new(), HashSet::new(), Some(top));
    while let Some(image) = next {
        if links.len() == most || !seen.insert(name(&image).to_owned()) {
            return Err(endless(image));
        }
        let (link, below) = look(image)?;
        links.push(link);
        next = below;
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_or_is_broken() {
        // what each stands on, by its letter; `!` is a failure
        let followed = |chain: &'static str, most| {
            let look = |at: &'static str| match chain.find(at).and_then(|at| chain.get(at + 1..at + 2)) {
                Some("!") => Err("unreadable"),
                below => Ok((at, below)),
            };
            follow(&chain[..1], most, |name| name, look, |at| at)
        };
        assert_eq!(followed("abc", 3), Ok(vec!["a", "b", "c"]));
        assert_eq!(followed("a", 1), Ok(vec!["a"]));
        assert_eq!(followed("abc", 2), Err("c"));
        assert_eq!(followed("abca", 8), Err("a"), "and not the ninth");
        assert_eq!(followed("aa", 9), Err("a"));
        assert_eq!(followed("ab!", 9), Err("unreadable"));
    }
}
