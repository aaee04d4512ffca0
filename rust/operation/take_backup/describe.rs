//! The descriptions of a domain that lie beside its disks, under the names that CloudStack's backups have.

use crate::libvirt::DomainXml;
use crate::point::DOMAIN;

/// Name and content of each file.
pub(super) fn texts(name: &str, xml: &str, domain: &DomainXml) -> Vec<(&'static str, String)> {
    let some = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let interfaces = domain.interfaces.iter();
    let interfaces =
        interfaces.map(|i| [some(&i.target), i.kind.clone(), some(&i.source), some(&i.model), some(&i.mac)]);
    let disks = domain.disks.iter().map(|d| [d.target.clone(), d.source.path().unwrap_or("-").to_owned()]);
    vec![
        (DOMAIN, xml.to_owned()),
        (
            "dominfo.xml",
            table(
                ["Name", "Disks", "Interfaces"],
                std::iter::once([name.to_owned(), domain.disks.len().to_string(), domain.interfaces.len().to_string()]),
            ),
        ),
        ("domiflist.xml", table(["Interface", "Type", "Source", "Model", "MAC"], interfaces)),
        ("domblklist.xml", table(["Target", "Source"], disks)),
    ]
}

/// Columns apart by tabs, under a heading.
fn table<const N: usize>(heading: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows = rows.map(|row| row.join("\t"));
    std::iter::once(heading.join("\t")).chain(rows).map(|line| line + "\n").collect()
}
