//! A string with an allocation of its own, which others may go on reading while its key lives on.
//!
//! A long string is never copied to be sent or to be logged: the reply and the log's effect hold
//! the same bytes as the key. Who changes them while somebody else has them changes a copy.

use crate::size_class::size_class;
use std::ops::Deref;
use std::sync::Arc;

/// From this length on, holding the same bytes is cheaper than a copy of them.
pub const SHARE: usize = 16 * 1024;

/// The owner of a string, or one of several.
#[derive(Clone, Debug)]
pub enum Text {
    Own(Vec<u8>),
    Shared(Arc<Vec<u8>>),
}

impl Text {
    /// The same bytes for a reader, if there are enough of them to be worth it.
    pub fn share(&mut self) -> Option<Arc<Vec<u8>>> {
        if self.len() < SHARE {
            return None;
        }
        if let Text::Own(bytes) = self {
            *self = Text::Shared(Arc::new(std::mem::take(bytes)));
        }
        match self {
            Text::Own(_) => None,
            Text::Shared(bytes) => Some(bytes.clone()),
        }
    }

    /// What its readers share, if it may have any.
    pub fn shared(&self) -> Option<&Arc<Vec<u8>>> {
        match self {
            Text::Own(_) => None,
            Text::Shared(bytes) => Some(bytes),
        }
    }

    /// The bytes to be changed, which readers do not see.
    pub fn edit(&mut self) -> &mut Vec<u8> {
        match self {
            Text::Own(bytes) => bytes,
            Text::Shared(bytes) => Arc::make_mut(bytes),
        }
    }

    /// Allocated bytes.
    pub fn capacity(&self) -> usize {
        match self {
            Text::Own(bytes) => size_class(bytes.capacity()),
            Text::Shared(bytes) => {
                size_class(bytes.capacity()) + size_of::<Vec<u8>>() + 2 * size_of::<usize>()
            }
        }
    }
}

impl Default for Text {
    fn default() -> Text {
        Text::Own(Vec::new())
    }
}

/// A long one is shared from the beginning.
impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Text {
        match bytes.len() < SHARE {
            true => Text::Own(bytes),
            false => Text::Shared(Arc::new(bytes)),
        }
    }
}

impl Deref for Text {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Text::Own(bytes) => bytes,
            Text::Shared(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_what_it_was_given() {
        for len in [SHARE, SHARE + 1, 200_000] {
            let mut text = Text::Own(vec![1; len]);
            let (address, first) = (text.as_ptr(), text.share().unwrap());
            assert_eq!(first.as_ptr(), address, "sharing copied");
            text.edit().push(2);
            assert_eq!((first.len(), &text[len..]), (len, &[2][..]));
            let address = text.as_ptr();
            drop(first);
            text.edit()[0] = 3;
            assert_eq!(text.as_ptr(), address, "an only owner copied");
        }
        assert!(Text::from(vec![1; SHARE - 1]).share().is_none());
    }
}
