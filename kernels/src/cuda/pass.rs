//! The pass on the device: positions, slots, pages and ids in one block of memory at a fixed address, so that a recorded
//! graph runs again with other contents. Staged when it changes; kernels get its address (`struct Pass` in hearth.cuh).

use super::Cuda;
use super::gpu::{Args, bytes_of};
use super::memory::DeviceBuffer;
use crate::ops::Pass;
use crate::{OpError, Result};

/// No snapshot is taken after this row.
const NO_SNAPSHOT: u32 = u32::MAX;

/// The block's head, `struct Pass` in hearth.cuh: numbers, then addresses of the arrays behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Head {
    row_segment: u64,
    row_position: u64,
    seg_slot: u64,
    seg_first: u64,
    seg_rows: u64,
    seg_position: u64,
    pages: u64,
    snapshots: u64,
    ids: u64,
    picks: u64,
    rows: u32,
    segments: u32,
    max_pages: u32,
    snapshotting: u32,
}

// SAFETY: repr(C); ten u64 then four u32 leave no padding.
unsafe impl Args for Head {}
const HEAD: usize = size_of::<Head>();
const _: () = assert!(HEAD == 96);

/// How many elements the arrays hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    rows: usize,
    segments: usize,
    pages: usize,
    picks: usize,
}

/// The room there is before the first pass.
const FIRST: Room = Room { rows: 64, segments: 16, pages: 64, picks: 64 };

/// What lies on the device now.
#[derive(Debug)]
pub(crate) struct Staged {
    buffer: DeviceBuffer,
    room: Room,
    /// The bytes last written, to leave out what is already there.
    written: Vec<u8>,
    /// What was last staged.
    pass: Pass,
    ids: Vec<u32>,
    picks: Vec<u32>,
    /// The device has changed it since: it is as the host told only in shape.
    settled: bool,
    /// Counts the moves of the block: a recorded graph holds its address.
    pub moves: u64,
    /// Blocks that graphs recorded earlier still name.
    outgrown: Vec<DeviceBuffer>,
}

impl Staged {
    pub fn new(cuda: &std::sync::Arc<dyn super::gpu::Gpu>) -> Result<Staged> {
        let room = FIRST;
        Ok(Staged {
            buffer: DeviceBuffer::zeroed(cuda, room.bytes())?,
            room,
            written: Vec::new(),
            pass: Pass { segments: Vec::new(), exact: false },
            ids: Vec::new(),
            picks: Vec::new(),
            settled: false,
            moves: 0,
            outgrown: Vec::new(),
        })
    }
}

impl Staged {
    /// The largest pass it holds.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Makes room for passes of `room` on `gpu`, unless any staging has it; as no graph is recorded then, blocks that graphs
    /// named are given back. Takes the same memory whatever was staged before.
    pub fn hold(&mut self, gpu: &std::sync::Arc<dyn super::gpu::Gpu>, room: Room) -> Result<()> {
        if FIRST.grown(room) != FIRST {
            self.widen(gpu, room)?;
        }
        self.outgrown.clear();
        Ok(())
    }

    /// Makes room for passes of `room`, on `gpu`.
    pub fn widen(&mut self, gpu: &std::sync::Arc<dyn super::gpu::Gpu>, room: Room) -> Result<()> {
        let room = self.room.grown(room);
        let larger = DeviceBuffer::zeroed(gpu, room.bytes())?;
        self.outgrown.push(std::mem::replace(&mut self.buffer, larger));
        (self.room, self.written) = (room, Vec::new());
        self.moves += 1;
        Ok(())
    }

    /// Where the block lies.
    #[cfg(test)]
    pub fn address(&self) -> u64 {
        self.buffer.address
    }

    /// Whether the staged pass asks for decode's arithmetic.
    pub fn exact(&self) -> bool {
        self.pass.exact
    }
}

impl Room {
    pub(crate) fn bytes(self) -> usize {
        HEAD + 4 * (4 * self.rows + 4 * self.segments + self.segments * self.pages + self.picks)
    }

    /// The next powers of two that hold `need` too.
    fn grown(self, need: Room) -> Room {
        let grow = |have: usize, need: usize| have.max(need.next_power_of_two());
        Room {
            rows: grow(self.rows, need.rows),
            segments: grow(self.segments, need.segments),
            pages: grow(self.pages, need.pages),
            picks: grow(self.picks, need.picks),
        }
    }
}

/// The block for `pass`, laid out for a buffer at `address`.
pub(super) fn block(address: u64, room: Room, pass: &Pass, ids: &[u32], picks: &[u32]) -> Vec<u8> {
    let rows = pass.rows();
    let mut words: Vec<u32> = vec![0; (room.bytes() - HEAD) / 4];
    let mut next = 0;
    let mut array = |len: usize, values: &mut dyn Iterator<Item = u32>| {
        let at = address + (HEAD + 4 * next) as u64;
        for (to, value) in words[next..next + len].iter_mut().zip(values) {
            *to = value;
        }
        next += len;
        at
    };
    let each_row = || pass.segments.iter().enumerate().flat_map(|(s, g)| (0..g.rows).map(move |i| (s, i, g)));
    let segments = || pass.segments.iter();
    let row_segment = array(room.rows, &mut each_row().map(|(s, ..)| s as u32));
    let row_position = array(room.rows, &mut each_row().map(|(_, i, g)| (g.position + i) as u32));
    let snapshots =
        array(room.rows, &mut each_row().map(|(_, i, g)| g.snapshots.get(i).copied().unwrap_or(NO_SNAPSHOT)));
    let ids = array(room.rows, &mut ids.iter().copied());
    let seg_slot = array(room.segments, &mut segments().map(|g| g.slot as u32));
    let seg_first = array(room.segments, &mut segments().map(|g| g.first_row as u32));
    let seg_rows = array(room.segments, &mut segments().map(|g| g.rows as u32));
    let seg_position = array(room.segments, &mut segments().map(|g| g.position as u32));
    let table = |g: &crate::ops::Segment| {
        let mut pages = g.pages.clone();
        pages.resize(room.pages, 0);
        pages
    };
    let pages = array(room.segments * room.pages, &mut segments().flat_map(table));
    let picks = array(room.picks, &mut picks.iter().copied());
    let head = Head {
        row_segment,
        row_position,
        seg_slot,
        seg_first,
        seg_rows,
        seg_position,
        pages,
        snapshots,
        ids,
        picks,
        rows: rows as u32,
        segments: pass.segments.len() as u32,
        max_pages: room.pages as u32,
        snapshotting: u32::from(pass.segments.iter().any(|g| !g.snapshots.is_empty())),
    };
    let mut bytes = bytes_of(&head).to_vec();
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

impl Cuda {
    /// Address of the block for `pass`, copied there if it is another one than last time.
    pub(crate) fn stage(&self, op: &'static str, pass: &Pass) -> Result<u64> {
        let mut staged = self.staged();
        let (ids, picks) = (staged.ids.clone(), staged.picks.clone());
        stage(self, &mut staged, op, pass, &ids, &picks)
    }

    /// The same for the pass that is there, with other ids.
    pub(crate) fn stage_ids(&self, op: &'static str, ids: &[u32]) -> Result<u64> {
        let mut staged = self.staged();
        let (pass, picks) = (staged.pass.clone(), staged.picks.clone());
        stage(self, &mut staged, op, &pass, ids, &picks)
    }

    /// The same, with other picks.
    pub(crate) fn stage_picks(&self, op: &'static str, picks: &[u32]) -> Result<u64> {
        let mut staged = self.staged();
        let (pass, ids) = (staged.pass.clone(), staged.ids.clone());
        stage(self, &mut staged, op, &pass, &ids, picks)
    }

    /// Address of the block and the first pick to read, if its picks hold `rows` from `first` on; else they become `rows`.
    pub(crate) fn staged_picks(&self, op: &'static str, first: usize, rows: &[u32]) -> Result<(u64, usize)> {
        let staged = self.staged();
        if staged.picks.get(first..).is_some_and(|picks| picks.starts_with(rows)) {
            return Ok((staged.buffer.address, first));
        }
        drop(staged);
        Ok((self.stage_picks(op, rows)?, 0))
    }

    /// The same, with the ids of the rows and the rows to gather.
    pub(crate) fn stage_with(
        &self,
        op: &'static str,
        pass: &Pass,
        ids: &[u32],
        picks: &[u32],
    ) -> Result<u64> {
        let mut staged = self.staged();
        if std::mem::take(&mut staged.settled) {
            staged.written.clear();
        }
        stage(self, &mut staged, op, pass, ids, picks)
    }

    /// The address of a pass that was just begun, for the kernel that settles it there.
    pub(crate) fn stage_to_settle(
        &self,
        op: &'static str,
        pass: &Pass,
        ids: &[u32],
        picks: &[u32],
    ) -> Result<u64> {
        let mut staged = self.staged();
        if staged.settled {
            return Err(OpError::shape(op, "pass", "one that was just begun", "one that was settled before"));
        }
        let address = stage(self, &mut staged, op, pass, ids, picks)?;
        staged.settled = true;
        Ok(address)
    }
}

fn stage(
    cuda: &Cuda,
    staged: &mut Staged,
    op: &'static str,
    pass: &Pass,
    ids: &[u32],
    picks: &[u32],
) -> Result<u64> {
    // Kernels trust these numbers.
    let mut next = 0usize;
    for segment in &pass.segments {
        let snapshots = segment.snapshots.len();
        if segment.first_row != next || segment.rows == 0 || (snapshots != 0 && snapshots != segment.rows) {
            let expected = format!("rows from {next} on, with a snapshot for none or each");
            let found = format!("{} rows from {}, {snapshots} snapshots", segment.rows, segment.first_row);
            return Err(OpError::shape(op, "segment", expected, found));
        }
        next = next.saturating_add(segment.rows);
        if u32::try_from(segment.position.saturating_add(segment.rows)).is_err() {
            return Err(OpError::shape(op, "position", "below 2^32", segment.position));
        }
    }
    let need = Room {
        rows: pass.rows().max(ids.len()),
        segments: pass.segments.len(),
        pages: pass.segments.iter().map(|s| s.pages.len()).max().unwrap_or(0),
        picks: picks.len(),
    };
    let room = staged.room.grown(need);
    if room != staged.room {
        staged.widen(&cuda.growing, room)?;
    }
    let bytes = block(staged.buffer.address, room, pass, ids, picks);
    if bytes != staged.written {
        cuda.gpu.write(staged.buffer.address, &bytes)?;
        (staged.written, staged.pass) = (bytes, pass.clone());
    }
    // Not only then: what ends in zeros leaves the same bytes as what is shorter.
    if staged.ids != ids {
        staged.ids = ids.to_vec();
    }
    if staged.picks != picks {
        staged.picks = picks.to_vec();
    }
    // Not among the bytes: kernels do not ask.
    staged.pass.exact = pass.exact;
    Ok(staged.buffer.address)
}
