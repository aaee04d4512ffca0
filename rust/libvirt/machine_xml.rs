//! Where the host keeps what a machine remembers beside its disks, by the domain's XML (libvirt's formatdomain).

use serde::Deserialize;

/// Where libvirt keeps the state of TPMs, in a folder for each domain, by its UUID.
pub const TPM_FOLDERS: &str = "/var/lib/libvirt/swtpm";

const UNNAMED: &str = "libvirt names no file of theirs";

/// The UEFI variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvram {
    /// The file that holds them, or why it can't be copied.
    pub file: Result<String, String>,
    /// It is a qcow2, and raw otherwise.
    pub qcow2: bool,
}

/// A TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tpm {
    /// Its version is 1.2, and 2.0 otherwise.
    pub is_1_2: bool,
    /// The folder of its state, `None` for the one that libvirt makes; or why the state can't be copied.
    pub folder: Result<Option<String>, String>,
    /// The UUID of libvirt's secret by which its state is encrypted.
    pub secret: Option<String>,
}

#[derive(Deserialize, Default)]
pub(super) struct OsElement {
    #[serde(rename = "@firmware")]
    firmware: Option<String>,
    loader: Option<LoaderElement>,
    nvram: Option<NvramElement>,
    varstore: Option<VarstoreElement>,
}

#[derive(Deserialize)]
struct LoaderElement {
    #[serde(rename = "@stateless")]
    stateless: Option<String>,
}

#[derive(Deserialize)]
struct VarstoreElement {}

#[derive(Deserialize)]
struct NvramElement {
    #[serde(rename = "@type")]
    kind: Option<String>,
    #[serde(rename = "@format")]
    format: Option<String>,
    source: Option<NvramSource>,
    #[serde(rename = "$text")]
    path: Option<String>,
}

#[derive(Deserialize)]
struct NvramSource {
    #[serde(rename = "@file")]
    file: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct TpmElement {
    backend: Option<TpmBackend>,
}

#[derive(Deserialize)]
struct TpmBackend {
    #[serde(rename = "@type")]
    kind: Option<String>,
    #[serde(rename = "@version")]
    version: Option<String>,
    encryption: Option<TpmEncryption>,
    source: Option<TpmSource>,
}

#[derive(Deserialize)]
struct TpmEncryption {
    #[serde(rename = "@secret")]
    secret: Option<String>,
}

#[derive(Deserialize)]
struct TpmSource {
    #[serde(rename = "@type")]
    kind: Option<String>,
    #[serde(rename = "@path")]
    path: Option<String>,
}

impl OsElement {
    pub(super) fn nvram(self) -> Option<Nvram> {
        let without = |why: &str| Some(Nvram { file: Err(why.to_owned()), qcow2: false });
        let is_stateless = self.loader.is_some_and(|loader| loader.stateless.as_deref() == Some("yes"));
        match (self.nvram, self.varstore) {
            (Some(nvram), _) => Some(nvram.into()),
            (None, Some(_)) => without("they are in a varstore"),
            // some versions of libvirt keep the name to themselves as long as the guest does not run
            (None, None) if self.firmware.as_deref() == Some("efi") && !is_stateless => without(UNNAMED),
            (None, None) => None,
        }
    }
}

impl From<NvramElement> for Nvram {
    fn from(nvram: NvramElement) -> Nvram {
        let file = match nvram.kind.as_deref() {
            None | Some("file") => nvram.source.and_then(|source| source.file).or(nvram.path),
            Some(kind) => return Nvram { file: Err(format!("they are no file, but of type '{kind}'")), qcow2: false },
        };
        let file = file.ok_or_else(|| UNNAMED.to_owned());
        Nvram { file, qcow2: nvram.format.as_deref() == Some("qcow2") }
    }
}

impl TpmElement {
    pub(super) fn tpm(self) -> Option<Tpm> {
        let TpmBackend { kind, version, encryption, source } = self.backend?;
        let folder = match (kind.as_deref(), source) {
            (Some("emulator"), None) => Ok(None),
            (Some("emulator"), Some(TpmSource { kind: Some(kind), path: Some(path) })) if kind == "dir" => {
                Ok(Some(path))
            }
            (Some("emulator"), Some(_)) => Err("swtpm writes it in place, into one file".to_owned()),
            (kind, _) => Err(format!("the TPM is no emulator of libvirt's, but of type '{}'", kind.unwrap_or("?"))),
        };
        let secret = encryption.and_then(|encryption| encryption.secret);
        Some(Tpm { is_1_2: version.as_deref() == Some("1.2"), folder, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::super::DomainXml;
    use super::*;

    fn parse(text: &str) -> DomainXml {
        DomainXml::parse(&format!("<domain>{text}</domain>")).unwrap()
    }

    #[test]
    fn the_uefi_variables_are_in_the_file_of_the_xml() {
        let nvram =
            |os: &str| parse(&format!("<os><type>hvm</type>{os}<boot dev='hd'/><boot dev='cdrom'/></os>")).nvram;
        let file = |path: &str, qcow2| Some(Nvram { file: Ok(path.to_owned()), qcow2 });
        assert_eq!(nvram(""), None);
        assert_eq!(parse("").nvram, None);
        assert_eq!(parse("<os firmware='efi'><loader stateless='yes'>/c.fd</loader></os>").nvram, None);
        assert_eq!(nvram("<nvram template='/usr/VARS.fd'>/n v/a.fd</nvram>"), file("/n v/a.fd", false));
        assert_eq!(nvram("<nvram format='qcow2'>/nv/a.fd</nvram>"), file("/nv/a.fd", true));
        let by_source = |kind: &str, source: &str| nvram(&format!("<nvram type='{kind}'>\n {source}\n</nvram>"));
        assert_eq!(by_source("file", "<source file='/nv/a.fd'/>"), file("/nv/a.fd", false));
        for (other, why) in [
            (by_source("block", "<source dev='/dev/a'/>"), "'block'"),
            (by_source("network", "<source protocol='iscsi' name='a'><host name='b'/></source>"), "'network'"),
            (nvram("<nvram template='/usr/VARS.fd'/>"), "no file"),
            (parse("<os firmware='efi'/>").nvram, "no file"),
            (nvram("<varstore path='/nv/a.json'/>"), "a varstore"),
        ] {
            let told = other.unwrap().file.unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn the_state_of_an_emulated_tpm_is_in_libvirt_s_folder_or_that_of_the_xml() {
        let tpm = |backend: &str| parse(&format!("<devices><tpm model='tpm-crb'>{backend}</tpm></devices>")).tpm;
        let emulator = |attributes: &str, inside: &str| {
            tpm(&format!("<backend type='emulator' {attributes}>{inside}<active_pcr_banks/></backend>")).unwrap()
        };
        assert_eq!(parse("<devices/>").tpm, None);
        let plain = Tpm { is_1_2: false, folder: Ok(None), secret: None };
        assert_eq!(emulator("version='2.0' persistent_state='yes'", ""), plain);
        assert_eq!(emulator("", ""), plain);
        assert_eq!(emulator("version='1.2'", ""), Tpm { is_1_2: true, ..plain.clone() });
        let secret = Some("0d6b".to_owned());
        assert_eq!(emulator("", "<encryption secret='0d6b'/>"), Tpm { secret, ..plain.clone() });
        assert_eq!(emulator("", "<source type='dir' path='/t'/>"), Tpm { folder: Ok(Some("/t".into())), ..plain });
        assert!(emulator("", "<source type='file' path='/t'/>").folder.unwrap_err().contains("in place"));
        let host = tpm("<backend type='passthrough'><device path='/dev/tpm0'/></backend>");
        assert!(host.unwrap().folder.unwrap_err().contains("'passthrough'"));
    }
}
