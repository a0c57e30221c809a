//! The two system calls that the loop lives on, without copies: reading into memory that is not
//! initialised yet, and writing out of a reply's chunks. The usual case, one piece of memory and a
//! socket, is a `recv` and a `send`: for a small reply they take the kernel less than `read` and
//! `writev`, which was 2% of the throughput.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use varve_engine::Reply;
use varve_engine::resp::request::Input;

/// The most chunks that one `writev` takes.
const SLICES: usize = 64;

/// Reads once into where `input` wants it; `pipe` says that `fd` is no socket. Returns the bytes read
/// and the bytes that there was room for; nothing read means the end of the stream.
pub fn read(fd: BorrowedFd<'_>, pipe: bool, input: &mut Input) -> io::Result<(usize, usize)> {
    let [first, second] = input.targets();
    let room = first.len() + second.len();
    let n = if first.is_empty() && !pipe {
        // SAFETY: the pointer and the length are those of one exclusive slice.
        unsafe { libc::recv(fd.as_raw_fd(), second.as_mut_ptr().cast(), second.len(), 0) }
    } else {
        let parts = [first, second]
            .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() });
        // SAFETY: each part is the pointer and the length of one exclusive slice.
        unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 2) }
    };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel wrote `n` bytes to the targets in their order, and `input` is unchanged.
    unsafe { input.filled(n as usize) };
    Ok((n as usize, room))
}

/// Writes once from the front of `output`, at most `max` bytes (not 0), and takes off what was
/// written; `pipe` says that `fd` is no socket. Sockets whose peer is gone answer with an error, as
/// Rust's runtime ignores `SIGPIPE`.
pub fn write(fd: BorrowedFd<'_>, pipe: bool, output: &mut Reply, max: usize) -> io::Result<usize> {
    let mut parts = [const { MaybeUninit::<IoSlice<'_>>::uninit() }; SLICES];
    let mut count = 0;
    let mut left = max;
    output.slices(SLICES, |bytes| {
        let bytes = &bytes[..bytes.len().min(left)];
        if !bytes.is_empty() {
            left -= bytes.len();
            parts[count].write(IoSlice::new(bytes));
            count += 1;
        }
    });
    // SAFETY: `IoSlice` is laid out as `iovec`, and the first `count` parts are initialised and
    // borrow from `output`, which is not touched before the call returns.
    let n = unsafe {
        if count == 1 && !pipe {
            let only = parts[0].assume_init_ref();
            libc::send(fd.as_raw_fd(), only.as_ptr().cast(), only.len(), 0)
        } else {
            libc::writev(fd.as_raw_fd(), parts.as_ptr().cast(), count as libc::c_int)
        }
    };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    output.advance(n as usize);
    Ok(n as usize)
}
