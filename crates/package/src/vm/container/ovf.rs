//! An appliance: an OVA, which is a tar file of a description of the machine (OVF), their digests and the disk.
//!
//! Promises: the description comes first, then the digests, then the disk, as consumers that read a stream need it; the disk is written once; the whole
//! is the same for the same disk and machine.
//! Absent on purpose: `image::tape`, whose entries are sorted and in GNU's form, where OVF asks for another order and for ustar; a certificate, since
//! Modelyard's signatures are about packages.
//!
//! Hardware that both vSphere and VirtualBox take and every kernel of Debian drives, that for clouds included: an IDE disk (`ata_piix`; that kernel has
//! neither AHCI nor LSI Logic, and VirtualBox no `vmw_pvscsi`) and a VMXNET3 network card (`vmxnet3`). VirtualBox knows no such card and puts in the one
//! that it thinks best, and has no EFI firmware unless it is told: `VBoxManage modifyvm NAME --firmware efi --nictype1 virtio`.
//!
//! Source: DMTF DSP0243 1.1 (Open Virtualization Format), DSP8023 (its schema); POSIX.1-2017, "ustar Interchange Format".

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::source::Source;
use super::vmdk::{self, Written};
use super::{Hardware, writing};

/// Bytes of a block of a tar file.
const BLOCK: u64 = 512;

/// The description is filled up with line ends to a multiple of this, so that its length does not depend on how long the disk becomes.
const DESCRIPTION_BYTES: usize = 8 << 10;

/// vSphere takes memory in steps of 4 MiB.
const MEMORY_STEP_MIB: u64 = 4;

/// Writes the appliance into `sink`, from its beginning.
pub fn write(source: &Source<'_>, hardware: &Hardware, sink: &mut File) -> io::Result<()> {
    let names = Names::new(hardware);
    let unknown = Written { bytes: u64::MAX, populated_bytes: u64::MAX };
    let described = description(source.size(), hardware, &names, unknown).len();
    let digested = digests(&names, &[0; 32], &[0; 32]).len();
    let description_at = BLOCK;
    let digests_at = description_at + padded(described) + BLOCK;
    let disk_at = digests_at + padded(digested) + BLOCK;

    let (written, disk) = write_disk(source, &names, disk_at, sink)?;
    let description = description(source.size(), hardware, &names, written);
    let digests = digests(&names, &Sha256::digest(&description).into(), &disk);
    let moment = hardware.source_date_epoch;
    let members = [
        (description_at, &names.description, description.as_bytes(), description.len() as u64),
        (digests_at, &names.digests, digests.as_bytes(), digests.len() as u64),
        (disk_at, &names.disk, &[][..], written.bytes),
    ];
    for (at, name, content, size) in members {
        sink.write_all_at(head(name, size, moment)?.as_bytes(), at - BLOCK).map_err(writing)?;
        sink.write_all_at(content, at).map_err(writing)?;
        let rest = padded(content.len()) as usize - content.len();
        sink.write_all_at(&[0; BLOCK as usize][..rest], at + content.len() as u64).map_err(writing)?;
    }
    Ok(())
}

/// Writes the disk and the end of the tar file. Returns the disk's digest too.
fn write_disk(source: &Source<'_>, names: &Names, at: u64, sink: &mut File) -> io::Result<(Written, [u8; 32])> {
    sink.seek(SeekFrom::Start(at)).map_err(writing)?;
    let mut hashed = Hashed { sink: BufWriter::with_capacity(1 << 20, sink), hash: Sha256::new() };
    let written = vmdk::write(source, &names.disk, &mut hashed)?;
    // The disk is whole sectors, which are as long as blocks. Two blocks of zeros end a tar file.
    hashed.sink.write_all(&[0; 2 * BLOCK as usize]).map_err(writing)?;
    hashed.sink.flush().map_err(writing)?;
    Ok((written, hashed.hash.finalize().into()))
}

/// What the files are called.
struct Names {
    description: String,
    digests: String,
    disk: String,
}

impl Names {
    fn new(hardware: &Hardware) -> Self {
        let name = &hardware.name;
        Self { description: format!("{name}.ovf"), digests: format!("{name}.mf"), disk: format!("{name}-disk1.vmdk") }
    }
}

/// Writes on, and hashes what is written.
struct Hashed<W> {
    sink: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.sink.write(bytes)?;
        self.hash.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// `length` up to the end of its last block.
fn padded(length: usize) -> u64 {
    (length as u64).next_multiple_of(BLOCK)
}

fn head(name: &str, size: u64, moment: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(moment);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// The manifest: a line for each other file.
fn digests(names: &Names, description: &[u8; 32], disk: &[u8; 32]) -> String {
    let line = |name: &str, digest: &[u8; 32]| {
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("SHA256({name})= {digest}\n")
    };
    line(&names.description, description) + &line(&names.disk, disk)
}

/// The description of the machine, as long for every disk.
fn description(size: u64, hardware: &Hardware, names: &Names, disk: Written) -> String {
    let file = escaped(&names.disk);
    let references = format!("<File ovf:href=\"{file}\" ovf:id=\"file1\" ovf:size=\"{}\"/>", disk.bytes);
    let disks = format!(
        "<Disk ovf:capacity=\"{size}\" ovf:capacityAllocationUnits=\"byte\" ovf:diskId=\"vmdisk1\" ovf:fileRef=\"file1\" \
         ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\" ovf:populatedSize=\"{}\"/>",
        disk.populated_bytes
    );
    let (name, title) = (escaped(&hardware.name), escaped(&hardware.title));
    let items = items(hardware);
    let mut text = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    {references}
  </References>
  <DiskSection>
    <Info>The disk that the machine boots from</Info>
    {disks}
  </DiskSection>
  <NetworkSection>
    <Info>The network that callers reach the model server on</Info>
    <Network ovf:name="VM Network">
      <Description>An address is asked for with DHCP</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A machine that serves a model</Info>
    <Name>{name}</Name>
    <AnnotationSection>
      <Info>What it serves</Info>
      <Annotation>{title}</Annotation>
    </AnnotationSection>
    <OperatingSystemSection ovf:id="101" vmw:osType="other3xLinux64Guest">
      <Info>The kind of operating system</Info>
      <Description>Linux, 64 bit</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>The hardware that it needs</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{items}      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="false"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    );
    let length = text.len().next_multiple_of(DESCRIPTION_BYTES);
    text.extend(std::iter::repeat_n('\n', length - text.len()));
    text
}

/// The hardware, each with its properties in the order of their names, which the schema asks for.
fn items(hardware: &Hardware) -> String {
    let cpus = hardware.cpus.max(1).to_string();
    let memory = hardware.memory_bytes.div_ceil(1 << 20).next_multiple_of(MEMORY_STEP_MIB).max(MEMORY_STEP_MIB);
    let memory = memory.to_string();
    let processors: [(&str, &str); 6] = [
        ("AllocationUnits", "hertz * 10^6"),
        ("Description", "Number of virtual CPUs"),
        ("ElementName", "CPU"),
        ("InstanceID", "1"),
        ("ResourceType", "3"),
        ("VirtualQuantity", &cpus),
    ];
    let memory: [(&str, &str); 6] = [
        ("AllocationUnits", "byte * 2^20"),
        ("Description", "Memory in MiB"),
        ("ElementName", "Memory"),
        ("InstanceID", "2"),
        ("ResourceType", "4"),
        ("VirtualQuantity", &memory),
    ];
    let controller: [(&str, &str); 5] = [
        ("Address", "0"),
        ("Description", "IDE controller"),
        ("ElementName", "IDE 0"),
        ("InstanceID", "3"),
        ("ResourceType", "5"),
    ];
    let disk: [(&str, &str); 6] = [
        ("AddressOnParent", "0"),
        ("ElementName", "Disk 1"),
        ("HostResource", "ovf:/disk/vmdisk1"),
        ("InstanceID", "4"),
        ("Parent", "3"),
        ("ResourceType", "17"),
    ];
    let network: [(&str, &str); 8] = [
        ("AddressOnParent", "7"),
        ("AutomaticAllocation", "true"),
        ("Connection", "VM Network"),
        ("Description", "Network card"),
        ("ElementName", "Ethernet 1"),
        ("InstanceID", "5"),
        ("ResourceSubType", "VmxNet3"),
        ("ResourceType", "10"),
    ];
    [&processors[..], &memory, &controller, &disk, &network].into_iter().map(item).collect()
}

fn item(properties: &[(&str, &str)]) -> String {
    let lines: String =
        properties.iter().map(|(name, value)| format!("        <rasd:{name}>{value}</rasd:{name}>\n")).collect();
    format!("      <Item>\n{lines}      </Item>\n")
}

/// `text` as it may stand in XML, within attributes too. What XML cannot say at all is replaced.
fn escaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => all.push_str("&amp;"),
            '<' => all.push_str("&lt;"),
            '>' => all.push_str("&gt;"),
            '"' => all.push_str("&quot;"),
            '\'' => all.push_str("&apos;"),
            '\t' | '\n' => all.push(character),
            '\u{fffe}' | '\u{ffff}' => all.push('\u{fffd}'),
            other if other.is_control() => all.push('\u{fffd}'),
            other => all.push(other),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hardware(title: &str) -> Hardware {
        Hardware {
            name: "wine".into(),
            title: title.into(),
            cpus: 2,
            memory_bytes: 1_000_000_000,
            source_date_epoch: 0,
        }
    }

    #[test]
    fn a_description_is_as_long_for_every_disk() {
        let hardware = hardware("wine:2.1.0");
        let names = Names::new(&hardware);
        let told = |bytes| description(1 << 30, &hardware, &names, Written { bytes, populated_bytes: bytes });
        assert_eq!(told(1).len(), told(u64::MAX).len());
        assert!(told(7).contains("ovf:size=\"7\""), "{}", told(7));
    }

    #[test]
    fn memory_comes_in_steps_that_vsphere_takes() {
        // 953.67 MiB.
        assert!(items(&hardware("x")).contains("<rasd:VirtualQuantity>956<"));
    }

    #[test]
    fn what_means_something_in_xml_is_escaped() {
        assert_eq!(
            escaped("a<b & \"c\">'d'\u{0}\u{1b}\u{ffff}\n"),
            "a&lt;b &amp; &quot;c&quot;&gt;&apos;d&apos;\u{fffd}\u{fffd}\u{fffd}\n"
        );
    }
}
