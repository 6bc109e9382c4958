//! The pass on the device: positions, slots, pages and ids in one block of memory at a fixed address, so that a recorded
//! graph runs again with other contents. Staged when it changes; kernels get its address (`struct Pass` in hearth.cuh).
//!
//! At the front of the block is what differs from step to step, as long as the pass needs it to be: some hundred bytes. The
//! page tables behind have room for the longest contexts, and of them only what has changed is written.

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
    /// The bytes last written to the front, to leave out what is already there.
    written: Vec<u8>,
    /// Of each segment's page table what was last written.
    tables: Vec<Vec<u32>>,
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
            tables: Vec::new(),
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
        (self.room, self.written, self.tables) = (room, Vec::new(), Vec::new());
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
        self.table_at(self.segments)
    }

    /// Where in the block the page table of a segment lies.
    fn table_at(self, segment: usize) -> usize {
        HEAD + 4 * (4 * self.rows + 4 * self.segments + self.picks + segment * self.pages)
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

/// The front of the block for `pass`, for a buffer at `address`: the head and all lists but the page tables.
pub(super) fn front(address: u64, room: Room, pass: &Pass, ids: &[u32], picks: &[u32]) -> Vec<u8> {
    let rows = pass.rows();
    // Of as many rows as anything in it has.
    let most = rows.max(ids.len());
    let mut words: Vec<u32> = Vec::with_capacity(4 * most + 4 * pass.segments.len() + picks.len());
    let mut list = |len: usize, values: &mut dyn Iterator<Item = u32>| {
        let first = words.len();
        words.extend(values);
        words.resize(first + len, 0);
        address + (HEAD + 4 * first) as u64
    };
    let each_row = || pass.segments.iter().enumerate().flat_map(|(s, g)| (0..g.rows).map(move |i| (s, i, g)));
    let segments = || pass.segments.iter();
    let row_segment = list(most, &mut each_row().map(|(s, ..)| s as u32));
    let row_position = list(most, &mut each_row().map(|(_, i, g)| (g.position + i) as u32));
    let snapshots =
        list(most, &mut each_row().map(|(_, i, g)| g.snapshots.get(i).copied().unwrap_or(NO_SNAPSHOT)));
    let ids = list(most, &mut ids.iter().copied());
    let count = pass.segments.len();
    let seg_slot = list(count, &mut segments().map(|g| g.slot as u32));
    let seg_first = list(count, &mut segments().map(|g| g.first_row as u32));
    let seg_rows = list(count, &mut segments().map(|g| g.rows as u32));
    let seg_position = list(count, &mut segments().map(|g| g.position as u32));
    let picks = list(picks.len(), &mut picks.iter().copied());
    let head = Head {
        row_segment,
        row_position,
        seg_slot,
        seg_first,
        seg_rows,
        seg_position,
        pages: address + room.table_at(0) as u64,
        snapshots,
        ids,
        picks,
        rows: rows as u32,
        segments: count as u32,
        max_pages: room.pages as u32,
        snapshotting: u32::from(pass.segments.iter().any(|g| !g.snapshots.is_empty())),
    };
    let mut bytes = bytes_of(&head).to_vec();
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// Writes what of `pages` differs from the table that is there, `known`.
fn write_table(gpu: &dyn super::gpu::Gpu, at: u64, known: &mut Vec<u32>, pages: &[u32]) -> Result<()> {
    let same = known.iter().zip(pages).take_while(|(known, page)| known == page).count();
    if same == pages.len() {
        return Ok(());
    }
    let bytes: Vec<u8> = pages[same..].iter().flat_map(|page| page.to_le_bytes()).collect();
    // Until it is there, nobody knows what lies behind.
    let behind = known.split_off(same);
    gpu.write(at + 4 * same as u64, &bytes)?;
    known.extend(&pages[same..]);
    known.extend(behind.iter().skip(pages.len() - same));
    Ok(())
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
    let address = staged.buffer.address;
    staged.tables.resize(staged.tables.len().max(pass.segments.len()), Vec::new());
    for (i, (segment, known)) in pass.segments.iter().zip(&mut staged.tables).enumerate() {
        write_table(cuda.gpu.as_ref(), address + room.table_at(i) as u64, known, &segment.pages)?;
    }
    let bytes = front(address, room, pass, ids, picks);
    if bytes != staged.written {
        cuda.gpu.write(address, &bytes)?;
        staged.written = bytes;
    }
    if staged.pass.segments != pass.segments {
        staged.pass.segments.clone_from(&pass.segments);
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

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::cuda::emulated::EmulatorOptions;
    use crate::ops::{Ops, Segment};
    use crate::splitmix::SplitMix64;

    /// The page tables of `pass` as they lie on the device.
    fn tables(cuda: &Cuda, pass: &Pass) -> Vec<Vec<u32>> {
        let staged = cuda.staged();
        let read = |(i, segment): (usize, &Segment)| {
            let mut bytes = vec![0; 4 * segment.pages.len()];
            let at = staged.buffer.address + staged.room.table_at(i) as u64;
            cuda.gpu.read(at, &mut bytes).expect("it is there");
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        pass.segments.iter().enumerate().map(read).collect()
    }

    #[test]
    fn page_tables_are_whole_however_passes_follow_each_other() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let mut random = SplitMix64(7);
        let mut below = move |n: u64| (random.next() % n) as usize;
        // Three sequences whose texts grow, begin again, and run in passes of one, two or three.
        let mut texts: Vec<Vec<u32>> = vec![Vec::new(); 3];
        for round in 0..200 {
            for text in &mut texts {
                match below(12) {
                    0 => text.clear(),
                    1 => text.truncate(1),
                    2 if !text.is_empty() => *text.last_mut().expect("one") = below(1000) as u32,
                    // Once in a while beyond what there is room for.
                    3..6 => text.extend((0..below(if round > 150 { 90 } else { 4 })).map(|page| page as u32)),
                    _ => {}
                }
            }
            let first = below(3);
            let segment = |(row, text): (usize, &Vec<u32>)| Segment {
                slot: first + row,
                first_row: row,
                rows: 1,
                position: round,
                pages: text.clone(),
                snapshots: vec![],
            };
            let segments = texts[first..].iter().enumerate().map(segment).collect();
            let pass = Pass { segments, exact: false };
            let ids = vec![1; pass.rows()];
            cuda.begin(&pass, &ids, &[]).expect("it is staged");
            let wanted: Vec<Vec<u32>> = pass.segments.iter().map(|s| s.pages.clone()).collect();
            assert_eq!(tables(&cuda, &pass), wanted, "round {round}");
        }
        assert!(cuda.staged().moves > 0, "it had to move");
    }

    #[test]
    fn only_what_is_new_of_a_page_table_is_written() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let buffer = DeviceBuffer::zeroed(&cuda.gpu, 64).expect("there is memory");
        let mut known = vec![5, 6, 7];
        write_table(cuda.gpu.as_ref(), buffer.address, &mut known, &[5, 6, 8, 9]).expect("it is written");
        assert_eq!(known, [5, 6, 8, 9]);
        write_table(cuda.gpu.as_ref(), buffer.address, &mut known, &[5, 1]).expect("it is written");
        assert_eq!(known, [5, 1, 8, 9], "what lies behind is still there");
        write_table(cuda.gpu.as_ref(), buffer.address, &mut known, &[5]).expect("nothing is to do");
        let mut bytes = [0; 20];
        cuda.gpu.read(buffer.address, &mut bytes).expect("it can be read");
        let words: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(words, [0, 1, 8, 9, 0], "the first was known to be there");
    }
}
