//! What can go wrong in an op. All of these are faults of the caller or of the machine, never of a request.

/// A refused or failed op.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpError {
    /// A tensor or weight does not have the shape the op's formula asks for.
    #[error("{op}: {what} should be {expected}, found {found}")]
    Shape {
        /// Name of the op.
        op: &'static str,
        /// The argument at fault.
        what: &'static str,
        /// The shape or dtype the op needs.
        expected: String,
        /// What was passed.
        found: String,
    },
    /// A weight holds what is not a number, which would make every answer worthless.
    #[error("{what} should be finite numbers, found NaN or infinite{}", at.map(|at| format!(" at index {at}")).unwrap_or_default())]
    NotFinite {
        /// Which numbers.
        what: &'static str,
        /// Where the first one is, if that is known.
        at: Option<usize>,
    },
    /// The backend has no code for this format or device feature.
    #[error("{op}: {what} is not supported on {device}")]
    Unsupported {
        /// Name of the op.
        op: &'static str,
        /// The format or feature.
        what: String,
        /// Name of the backend.
        device: &'static str,
    },
    /// The memory could not be had.
    #[error("{device}: could not allocate {bytes} bytes")]
    OutOfMemory {
        /// Name of the backend.
        device: &'static str,
        /// Size of the refused allocation, bytes.
        bytes: usize,
    },
    /// A GPU, its driver, or the emulator reports a fault. The engine process cannot go on after one.
    #[error("{device}: {code}: {what}")]
    Device {
        /// Name of the backend.
        device: &'static str,
        /// The driver's name and number of the fault, e.g. `CUDA_ERROR_ILLEGAL_ADDRESS (700)`.
        code: String,
        /// What was being done, or what the emulator saw.
        what: String,
    },
    /// The backend cannot be used on this machine; another one can.
    #[error("{device}: {reason}. {remedy}")]
    Unavailable {
        /// Name of the backend.
        device: &'static str,
        /// Why.
        reason: String,
        /// What to do about it, sentences with their full stops.
        remedy: &'static str,
    },
    /// The memory plan cannot be kept.
    #[error("{device}: {reason}:{table}")]
    Plan {
        /// Name of the backend.
        device: &'static str,
        /// What does not fit.
        reason: String,
        /// Each use of the memory on a line of its own, with its size.
        table: String,
    },
    /// A file could not be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the operating system says.
        reason: String,
    },
    /// The operating system refused a worker thread.
    #[error("{device}: could not start {threads} worker threads: {reason}")]
    Threads {
        /// Name of the backend.
        device: &'static str,
        /// How many were asked for.
        threads: usize,
        /// The operating system's words.
        reason: String,
    },
}

impl OpError {
    /// A [`OpError::Shape`] from anything that can be printed.
    pub(crate) fn shape(
        op: &'static str,
        what: &'static str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> OpError {
        OpError::Shape { op, what, expected: expected.to_string(), found: found.to_string() }
    }
}
