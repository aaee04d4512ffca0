//! The keys of disks that libvirt keeps.

use std::ffi::c_int;
use std::slice;

use virt::error::Error as VirtError;
use virt_sys as sys;

use super::at;
use super::connection::connect;
use super::disk_xml::SecretName;
use super::domain::c_string;
use crate::error::Result;

/// A secret, given back when dropped.
struct Secret(sys::virSecretPtr);

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: the pointer came from libvirt with one reference, which is given back once.
        unsafe { sys::virSecretFree(self.0) };
    }
}

/// The key of Ceph's that the libvirt at `uri` keeps under this name. Never logged or shown.
pub fn ceph_key(uri: &str, name: &SecretName) -> Result<Vec<u8>> {
    const STEP: &str = "read the disk's secret";
    let connection = connect(uri)?;
    let (SecretName::Uuid(text) | SecretName::Usage(text)) = name;
    let text = c_string(text)?;
    // SAFETY: the connection is open, and the text is NUL-terminated and outlives the call.
    let secret = unsafe {
        match name {
            SecretName::Uuid(_) => sys::virSecretLookupByUUIDString(connection.as_ptr(), text.as_ptr()),
            SecretName::Usage(_) => {
                let ceph = sys::VIR_SECRET_USAGE_TYPE_CEPH as c_int;
                sys::virSecretLookupByUsage(connection.as_ptr(), ceph, text.as_ptr())
            }
        }
    };
    if secret.is_null() {
        return Err(at(STEP)(VirtError::last_error()));
    }
    let (secret, mut length) = (Secret(secret), 0);
    // SAFETY: the secret is live. What comes back has `length` bytes and is ours: it is copied, wiped and freed once.
    unsafe {
        let value = sys::virSecretGetValue(secret.0, &mut length, 0);
        if value.is_null() {
            return Err(at(STEP)(VirtError::last_error()));
        }
        let copy = slice::from_raw_parts(value, length).to_vec();
        value.write_bytes(0, length);
        libc::free(value.cast());
        Ok(copy)
    }
}
