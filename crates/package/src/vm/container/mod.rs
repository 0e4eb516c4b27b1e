//! What a disk is wrapped in for those who run machines: as it is, qcow2, VMDK, or an appliance with a description of the machine (OVA).
