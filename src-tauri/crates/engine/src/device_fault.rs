//! The words for a device that has failed. After such a fault the process can compute nothing any more: it ends with an exit
//! code of its own, and the appliance shows these words and starts another.

use hearth_kernels::OpError;

use crate::status::Fault;

const LOG: &str =
    "The model is started again. If it happens often, `journalctl -k | grep Xid` names the cause.";
const MACHINE: &str = "Restart the machine. If it comes back, `journalctl -k | grep Xid` names the cause.";
const MEMORY: &str = "Close other programs that use the GPU, or lower the context or the number of requests.";

/// Numbers of the driver, the code they get here, and what is said of them. Source: `CUresult`, CUDA driver API 13.0.
const WORDS: [(&[u32], &str, &str, &str); 7] = [
    (&[2], "device_out_of_memory", "The GPU has run out of memory.", MEMORY),
    (
        &[700, 716, 717],
        "device_illegal_address",
        "A computation on the GPU touched memory that is not its own.",
        LOG,
    ),
    (&[702, 909], "device_timeout", "A computation on the GPU took too long and was ended.", LOG),
    (&[710, 714, 715, 718, 719], "device_kernel_failed", "A computation on the GPU failed.", LOG),
    (
        &[214, 220, 221, 226],
        "device_memory_error",
        "The GPU's memory or link reports an error that it cannot correct.",
        MACHINE,
    ),
    (&[4, 46, 100, 101, 201, 709, 802, 803, 999], "device_lost", "The GPU no longer answers.", MACHINE),
    (&[], "device_fault", "The GPU reports a fault.", LOG),
];

/// What a person is told of `error`; evidence is the driver's own word and what was being done. None for errors after which
/// the device can still be used.
pub(crate) fn fault(error: &OpError) -> Option<Fault> {
    let OpError::Device { code, what, .. } = error else { return None };
    let number = code.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix(')')?.parse::<u32>().ok());
    let known = WORDS.iter().find(|(numbers, ..)| number.is_some_and(|number| numbers.contains(&number)));
    let (_, code_here, message, next_step) = known.unwrap_or(&WORDS[WORDS.len() - 1]);
    Some(Fault::new(*code_here, *message, *next_step).with_evidence(format!("{code}: {what}")))
}

/// Whether a fault's code is one of these: then the engine that said it is about to end.
pub fn is_device_fault(code: &str) -> bool {
    WORDS.iter().any(|(_, known, ..)| code == *known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str) -> Fault {
        let error = OpError::Device { device: "cuda", code: code.into(), what: "starting linear".into() };
        fault(&error).expect("it is one")
    }

    #[test]
    fn each_kind_of_fault_has_its_words_and_keeps_the_drivers() {
        for (code, known) in [
            ("CUDA_ERROR_ILLEGAL_ADDRESS (700)", "device_illegal_address"),
            ("CUDA_ERROR_OUT_OF_MEMORY (2)", "device_out_of_memory"),
            ("CUDA_ERROR_LAUNCH_TIMEOUT (702)", "device_timeout"),
            ("CUDA_ERROR_LAUNCH_FAILED (719)", "device_kernel_failed"),
            ("CUDA_ERROR_ECC_UNCORRECTABLE (214)", "device_memory_error"),
            ("CUDA_ERROR_UNKNOWN (999)", "device_lost"),
            ("CUDA_ERROR_NOT_YET_INVENTED (4711)", "device_fault"),
            ("hang", "device_fault"),
        ] {
            let fault = of(code);
            assert_eq!(fault.code, known);
            assert!(
                is_device_fault(&fault.code) && fault.evidence.is_some_and(|text| text.contains(code)),
                "{code}"
            );
        }
    }

    #[test]
    fn what_a_device_merely_refuses_is_no_fault_of_it() {
        assert_eq!(fault(&OpError::OutOfMemory { device: "cuda", bytes: 1 }), None);
        assert!(!is_device_fault("device_unavailable"));
    }
}
