//! What a VM and a VBD that were made here are in xapi's terms: every member without which its importer takes neither
//! (`Client.VM` and `Client.VBD` of xen-api's datamodel), with the values that its own templates have.

use crate::formats::xva::{NULL_REFERENCE, Record, Value};

fn map<const N: usize>(members: [(&str, &str); N]) -> Value {
    Value::Struct(members.into_iter().map(|(name, value)| (name, text(value))).collect())
}

fn text(text: impl ToString) -> Value {
    Value::text(text)
}

fn empty_map() -> Value {
    Value::Struct(Record::new())
}

fn empty_set() -> Value {
    Value::Array(Vec::new())
}

/// A halted HVM guest that starts from its disk by BIOS. `memory` in bytes.
///
/// Names, uuid and what else has a column of its own is not in it; references to other objects point at nothing.
pub fn vm(cpus: u32, memory: u64) -> Record {
    [
        ("power_state", text("Halted")),
        ("user_version", text(1)),
        ("is_a_template", Value::Bool(false)),
        ("suspend_VDI", text(NULL_REFERENCE)),
        ("resident_on", text(NULL_REFERENCE)),
        ("affinity", text(NULL_REFERENCE)),
        ("memory_overhead", text(0)),
        ("memory_target", text(memory)),
        ("memory_static_max", text(memory)),
        ("memory_dynamic_max", text(memory)),
        ("memory_dynamic_min", text(memory)),
        ("memory_static_min", text(memory)),
        ("VCPUs_params", empty_map()),
        ("VCPUs_max", text(cpus)),
        ("VCPUs_at_startup", text(cpus)),
        ("actions_after_shutdown", text("destroy")),
        ("actions_after_reboot", text("restart")),
        ("actions_after_crash", text("restart")),
        ("PV_bootloader", text("")),
        ("PV_kernel", text("")),
        ("PV_ramdisk", text("")),
        ("PV_args", text("")),
        ("PV_bootloader_args", text("")),
        ("PV_legacy_args", text("")),
        ("HVM_boot_policy", text("BIOS order")),
        ("HVM_boot_params", map([("order", "dc"), ("firmware", "bios")])),
        ("HVM_shadow_multiplier", Value::Double("1".into())),
        (
            "platform",
            map([
                ("acpi", "1"),
                ("apic", "true"),
                ("pae", "true"),
                ("nx", "true"),
                ("hpet", "true"),
                ("viridian", "false"),
                ("timeoffset", "0"),
                ("stdvga", "0"),
            ]),
        ),
        ("PCI_bus", text("")),
        ("other_config", empty_map()),
        ("domid", text(-1)),
        ("domarch", text("")),
        ("is_control_domain", Value::Bool(false)),
        ("metrics", text(NULL_REFERENCE)),
        ("guest_metrics", text(NULL_REFERENCE)),
        ("last_booted_record", text("")),
        ("recommendations", text("")),
        ("xenstore_data", empty_map()),
        ("ha_restart_priority", text("")),
        ("ha_always_run", Value::Bool(false)),
        ("blocked_operations", empty_map()),
        // Without it an importer takes the memory for a guest's that knew no ballooning, and resets its ranges.
        ("parent", text(NULL_REFERENCE)),
        ("bios_strings", empty_map()),
        ("start_delay", text(0)),
        ("shutdown_delay", text(0)),
        ("order", text(0)),
        ("hardware_platform_version", text(0)),
        ("has_vendor_device", Value::Bool(false)),
        ("domain_type", text("hvm")),
    ]
    .into_iter()
    .collect()
}

/// A disk that is attached to a VM that does not run.
pub fn vbd() -> Record {
    [
        ("device", text("")),
        ("type", text("Disk")),
        ("unpluggable", Value::Bool(true)),
        ("storage_lock", Value::Bool(false)),
        ("empty", Value::Bool(false)),
        ("other_config", empty_map()),
        ("currently_attached", Value::Bool(false)),
        ("status_code", text(0)),
        ("status_detail", text("")),
        ("runtime_properties", empty_map()),
        ("qos_algorithm_type", text("")),
        ("qos_algorithm_params", empty_map()),
        ("qos_supported_algorithms", empty_set()),
    ]
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_every_member_that_an_importer_requires_but_its_uuid() {
        let record = vm(2, 1 << 30);
        let required = "user_version is_a_template resident_on affinity memory_static_max memory_dynamic_max \
            memory_dynamic_min memory_static_min VCPUs_params VCPUs_max VCPUs_at_startup actions_after_shutdown \
            actions_after_reboot actions_after_crash PV_bootloader PV_kernel PV_ramdisk PV_args PV_bootloader_args \
            PV_legacy_args HVM_boot_policy HVM_boot_params platform PCI_bus other_config domid domarch \
            is_control_domain metrics guest_metrics recommendations parent domain_type power_state";
        for member in required.split_whitespace() {
            assert!(record.get(member).is_some(), "{member}");
        }
        assert_eq!(record.number("VCPUs_max"), Some(2));
        assert_eq!(record.number("memory_static_max"), Some(1 << 30));
    }

    #[test]
    fn a_vbd_has_every_member_that_an_importer_requires_but_those_with_a_column() {
        let record = vbd();
        let required = "type storage_lock empty other_config status_code status_detail runtime_properties \
            qos_algorithm_type qos_algorithm_params qos_supported_algorithms";
        for member in required.split_whitespace() {
            assert!(record.get(member).is_some(), "{member}");
        }
    }
}
