//! Addresses, listening, and sorting out who connected.
//!
//! A source opens one main connection and N channels, in any order as far as
//! they arrive here, and may withhold the first byte of any of them until all
//! are connected. So every connection is accepted at once and reads its own
//! first bytes, which say what it is.

use std::{
    fmt, fs, io,
    net::{TcpListener, ToSocketAddrs},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

/// Connections the kernel may hold for us: a source may open 256 before it
/// sends a byte.
const BACKLOG: libc::c_int = 512;

/// Where to listen or connect: `tcp:HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `tcp:HOST:PORT`; an empty host means loopback.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 lets the kernel choose when listening.
        port: u16,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// An address that is not one.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an address: write tcp:HOST:PORT or unix:PATH")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) =
            text.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Connects to it.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp { host, port } => {
                let stream = std::net::TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Self::Unix(path) => Ok(UnixStream::connect(path)?.into()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: Address,
    /// Removed again when the listener goes.
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens on `address`.
    pub fn bind(address: &Address) -> io::Result<Self> {
        let listener = match address {
            Address::Tcp { host, port } => {
                let candidates: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
                let tcp = TcpListener::bind(&*candidates)?;
                let port = tcp.local_addr()?.port();
                let address = Address::Tcp { host: host.clone(), port };
                Self { fd: tcp.into(), address, path: None }
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let unix = UnixListener::bind(path)?;
                Self { fd: unix.into(), address: address.clone(), path: Some(path.clone()) }
            }
        };
        // SAFETY: listen on a socket we own touches no memory. Listening a
        // second time sets the backlog, which std does not let us choose.
        if unsafe { libc::listen(listener.fd.as_raw_fd(), BACKLOG) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: F_SETFL on a socket we own touches no memory.
        if unsafe { libc::fcntl(listener.fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(listener)
    }

    /// The address with the port the kernel chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes the next waiting connection, if there is one.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        use std::os::fd::FromRawFd;
        loop {
            // SAFETY: null address and length ask for no peer address.
            let fd = unsafe {
                libc::accept4(
                    self.fd.as_raw_fd(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                )
            };
            if fd >= 0 {
                // SAFETY: the kernel has just given us this descriptor.
                return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            let error = io::Error::last_os_error();
            match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::WouldBlock, _) => return Ok(None),
                // The peer gave up between connecting and being accepted.
                (io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted, _)
                | (_, Some(libc::EPROTO)) => {}
                _ => return Err(error),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody else may have removed it; then there is nothing to do.
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes a socket that a process left behind. One that answers, and anything
/// that is not a socket, is left for `bind` to refuse.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(data) if data.file_type().is_socket() && UnixStream::connect(path).is_err() => {
            fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for (text, printed) in [
            ("tcp:127.0.0.1:4444", "tcp:127.0.0.1:4444"),
            ("tcp::4444", "tcp:127.0.0.1:4444"),
            ("tcp:[::1]:9", "tcp:[::1]:9"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), printed);
        }
        for text in ["", "tcp:", "tcp:host", "tcp:host:99999", "unix:", "host:1", "exec:cat"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(dir.path().join("m.sock"));
        // A raw std listener leaves its path behind when it is dropped.
        drop(UnixListener::bind(dir.path().join("m.sock")).unwrap());
        let live = Listener::bind(&address).unwrap();
        assert!(Listener::bind(&address).is_err());
        drop(live);
        assert!(!dir.path().join("m.sock").exists());
    }
}
