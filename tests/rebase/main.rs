//! Rebase, against QEMU's tools: the same guest content, sound images, whatever the chain, the cut or the error.

mod chains;
mod crash;
mod differential;
mod journal;
