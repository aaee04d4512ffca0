//! Texts from Java.

use jni::Env;
use jni::objects::JString;

use super::failure::Failure;
use crate::error::Error;

/// A text, or `None` for null. Half a surrogate pair is refused: the name meant by it would silently be another.
pub(super) fn read(field: &str, value: JString<'_>, env: &Env<'_>) -> Result<Option<String>, Failure> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.try_to_string(env)?;
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Error::invalid(field, "holds half a surrogate pair or U+FFFD").into());
    }
    Ok(Some(text))
}

/// A text that must not be null.
pub(super) fn given(field: &str, value: JString<'_>, env: &Env<'_>) -> Result<String, Failure> {
    read(field, value, env)?.ok_or_else(|| Error::invalid(field, "is missing").into())
}
