//! The bytes of a file as shared pages: copies of a file share what neither has changed.
//!
//! Every crash image is a copy of a whole file system, and a test takes a hundred thousand of them;
//! a page that no image changed exists once, and its hash is computed once.
//!
//! Invariant: bytes of the last page beyond `len` are zero.

use std::sync::{Arc, LazyLock, OnceLock};

use twox_hash::XxHash3_64;

/// Bytes in a page, and in the blocks that a disk writes.
pub(super) const PAGE: usize = 4096;

struct Page {
    bytes: [u8; PAGE],
    hash: OnceLock<u64>,
}

impl Clone for Page {
    fn clone(&self) -> Page {
        Page {
            bytes: self.bytes,
            hash: OnceLock::new(),
        }
    }
}

static ZERO: LazyLock<Arc<Page>> = LazyLock::new(|| {
    Arc::new(Page {
        bytes: [0; PAGE],
        hash: OnceLock::new(),
    })
});

/// The bytes of a file.
#[derive(Clone, Default)]
pub(super) struct Pages {
    pages: Vec<Arc<Page>>,
    len: u64,
}

impl Pages {
    pub(super) fn from_bytes(bytes: &[u8]) -> Pages {
        let mut pages = Pages::default();
        pages.write_at(bytes, 0);
        pages
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Cuts the file off, or makes it longer with zeros.
    pub(super) fn resize(&mut self, len: u64) {
        let count = len.div_ceil(PAGE as u64) as usize;
        self.pages.resize_with(count, || ZERO.clone());
        let tail = (len % PAGE as u64) as usize;
        if len < self.len
            && tail > 0
            && let Some(last) = self.pages.last_mut()
        {
            change(last)[tail..].fill(0);
        }
        self.len = len;
    }

    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let wanted = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let (page, at, n) = piece(offset + done as u64, wanted - done);
            buf[done..done + n].copy_from_slice(&self.pages[page].bytes[at..at + n]);
            done += n;
        }
        wanted
    }

    /// Writes, and makes the file longer if need be.
    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        if end > self.len {
            self.resize(end);
        }
        let mut done = 0;
        while done < bytes.len() {
            let (page, at, n) = piece(offset + done as u64, bytes.len() - done);
            let page = change(&mut self.pages[page]);
            page[at..at + n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
    }

    /// Takes over the pages of `other` that hold `offset .. offset + len`, which is not beyond its
    /// end; the rest of these pages is the same in both.
    pub(super) fn adopt(&mut self, other: &Pages, offset: u64, len: usize) {
        let end = offset + len as u64;
        if end > self.len {
            self.resize(end);
        }
        let mut done = 0;
        while done < len {
            let (page, _, n) = piece(offset + done as u64, len - done);
            self.pages[page] = other.pages[page].clone();
            done += n;
        }
    }

    /// The first `len` bytes, or all if there are fewer.
    pub(super) fn to_vec(&self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len.min(self.len) as usize];
        self.read_at(&mut bytes, 0);
        bytes
    }

    /// A hash of length and bytes.
    pub(super) fn hash(&self) -> u64 {
        let mut words = Vec::with_capacity(8 * (self.pages.len() + 1));
        words.extend(self.len.to_le_bytes());
        for page in &self.pages {
            let hash = page
                .hash
                .get_or_init(|| XxHash3_64::oneshot(page.bytes.as_slice()));
            words.extend(hash.to_le_bytes());
        }
        XxHash3_64::oneshot(&words)
    }
}

/// Page, offset in it and length of the first piece of `len` bytes from `offset` that lies in one
/// page.
fn piece(offset: u64, len: usize) -> (usize, usize, usize) {
    let at = (offset % PAGE as u64) as usize;
    ((offset / PAGE as u64) as usize, at, len.min(PAGE - at))
}

fn change(page: &mut Arc<Page>) -> &mut [u8; PAGE] {
    let page = Arc::make_mut(page);
    page.hash.take();
    &mut page.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_behave_like_a_vector_and_copies_are_apart() {
        let mut pages = Pages::default();
        let mut model: Vec<u8> = Vec::new();
        let mut copies: Vec<(Pages, Vec<u8>)> = Vec::new();
        let mut x = 1u64;
        for step in 0..2000u64 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(step | 1);
            let (offset, len) = ((x >> 20) % 20_000, ((x >> 40) % 9_000) as usize);
            match x >> 61 {
                0 => {
                    pages.resize(offset);
                    model.resize(offset as usize, 0);
                }
                1 => {
                    copies.truncate(8);
                    copies.push((pages.clone(), model.clone()));
                }
                _ => {
                    let bytes = vec![step as u8; len];
                    pages.write_at(&bytes, offset);
                    let end = offset as usize + len;
                    model.resize(model.len().max(end), 0);
                    model[offset as usize..end].copy_from_slice(&bytes);
                }
            }
            assert_eq!(pages.len(), model.len() as u64);
            assert_eq!(pages.hash(), Pages::from_bytes(&model).hash());
        }
        assert!(pages.to_vec(u64::MAX) == model);
        for (pages, model) in copies {
            assert!(pages.to_vec(u64::MAX) == model);
            assert_eq!(pages.hash(), Pages::from_bytes(&model).hash());
            let mut buf = [7; 100];
            assert_eq!(pages.read_at(&mut buf, pages.len()), 0);
        }
    }
}
