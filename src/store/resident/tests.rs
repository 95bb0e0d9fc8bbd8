//! The bitmap in memory and on disk, and readers beside those who drop.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn bitmap(frames: u32) -> File {
    let file = tempfile::tempfile().unwrap();
    Resident::write_all(&file, frames).unwrap();
    file
}

fn open(file: &File, frames: u32) -> Resident {
    Resident::open(file.try_clone().unwrap(), frames).unwrap()
}

fn set(resident: &Resident) -> BTreeSet<u32> {
    (0..resident.frames + 40).filter(|frame| resident.has(*frame)).collect()
}

#[test]
fn a_new_bitmap_says_all_is_there_and_not_a_frame_more() {
    for frames in [0, 1, 31, 32, 33, 64, 100] {
        let resident = open(&bitmap(frames), frames);
        assert!(resident.all());
        assert_eq!(set(&resident), (0..frames).collect());
        assert_eq!(resident.missing(0..frames), None);
    }
}

#[test]
fn a_bitmap_of_nothing_says_nothing_is_there() {
    let file = bitmap(70);
    Resident::write_none(&file, 33).unwrap();
    assert_eq!(open(&file, 33).missing(0..33), Some(0..33));
}

#[test]
fn dropped_frames_are_gone_on_disk_before_they_are_punched() {
    let file = bitmap(100);
    let resident = open(&file, 100);
    let era = resident.era();
    resident
        .drop_frames(30..34, |frames| {
            assert_eq!(frames, [30, 31, 32, 33]);
            assert_eq!(open(&file, 100).missing(0..100), Some(30..34));
            Ok(())
        })
        .unwrap();
    assert_ne!(resident.era(), era, "a reader of before must see that something was dropped");
    assert!(!resident.all());
    assert_eq!(resident.missing(0..31), Some(30..31));
    resident.drop_frames(30..34, |_| unreachable!("nothing was left to punch")).unwrap();
}

#[test]
fn what_was_found_is_read_once_it_was_proven_or_written_anew() {
    let resident = open(&bitmap(100), 100);
    resident.distrust(0..100);
    let read = |resident: &Resident, frames: Range<u32>| resident.read(|| frames.clone(), || Ok::<(), ()>(()));
    assert!(resident.all(), "it is there all the same");
    assert_eq!(read(&resident, 30..40), Err(Unread::NotResident(30..40)));
    for frame in 30..40 {
        assert_eq!(resident.prove(frame, || Ok::<(), ()>(())), Ok(()));
    }
    assert_eq!((read(&resident, 30..40), resident.unproven(29..41)), (Ok(()), Some(29..41)));
    assert_eq!(resident.prove(50, || Err("wrong")), Err("wrong"));
    assert_eq!(read(&resident, 50..51), Err(Unread::NotResident(50..51)));
    resident.drop_frames([50], |_| Ok(())).unwrap();
    assert_eq!(resident.prove(50, || Err("it is not there")), Ok(()));
    assert!(resident.mark(50, resident.era_for_writing()));
    assert_eq!(read(&resident, 50..51), Ok(()));
    for frame in 0..100 {
        resident.prove(frame, || Ok::<(), ()>(())).unwrap();
    }
    assert_eq!((resident.unproven(0..100), read(&resident, 0..100)), (None, Ok(())));
}

#[test]
fn a_bit_set_in_another_era_does_not_count() {
    let resident = open(&bitmap(10), 10);
    resident.drop_frames([3, 4], |_| Ok(())).unwrap();
    let era = resident.era_for_writing();
    resident.drop_frames([5], |_| Ok(())).unwrap();
    assert!(!resident.mark(3, era));
    assert!(!resident.has(3));
    assert!(resident.mark(3, resident.era_for_writing()));
    assert!(resident.has(3));
}

#[test]
fn a_read_during_which_something_was_dropped_does_not_count() {
    let resident = open(&bitmap(10), 10);
    let mut reads = 0;
    let read = resident.read(
        || 2..5,
        || {
            reads += 1;
            resident.drop_frames([4], |_| Ok(()))
        },
    );
    assert!(matches!(read, Err(Unread::NotResident(missing)) if missing == (4..5)));
    assert_eq!(reads, 1);
}

#[test]
fn a_read_during_which_a_frame_went_and_came_back_is_made_again() {
    let resident = open(&bitmap(10), 10);
    let mut reads = 0;
    let read = resident.read(
        || 2..5,
        || {
            reads += 1;
            if reads < 3 {
                resident.drop_frames([4], |_| Ok::<_, io::Error>(())).unwrap();
                assert!(resident.mark(4, resident.era_for_writing()));
            }
            Err::<(), _>(reads)
        },
    );
    assert_eq!(read, Err(Unread::Failed(3)), "and its error counts only in the end");
}

#[test]
fn bits_reach_the_disk_with_sync_and_not_before() {
    let (file, data) = (bitmap(40), tempfile::tempfile().unwrap());
    let resident = open(&file, 40);
    resident.drop_frames([1, 39], |_| Ok(())).unwrap();
    assert!(resident.mark(39, resident.era_for_writing()));
    assert_eq!(open(&file, 40).missing(0..40), Some(1..40));
    resident.sync(&data).unwrap();
    assert_eq!(open(&file, 40).missing(0..40), Some(1..2));
}

/// A file that cannot be synced.
fn refusing() -> File {
    File::from(std::os::fd::OwnedFd::from(io::pipe().unwrap().1))
}

#[test]
fn what_came_since_the_last_sync_is_not_resident_once_the_disk_has_refused_data() {
    let (file, data) = (bitmap(100), tempfile::tempfile().unwrap());
    let resident = open(&file, 100);
    resident.drop_frames([1, 2, 40, 99], |_| Ok(())).unwrap();
    let fill = |frame| assert!(resident.mark(frame, resident.era_for_writing()));
    fill(1);
    resident.sync(&data).unwrap();
    [2, 99].into_iter().for_each(fill);
    let (era, under_way) = (resident.era(), resident.era_for_writing());
    resident.sync(&refusing()).unwrap_err();
    assert_eq!(set(&resident), (0..99).filter(|frame| ![2, 40].contains(frame)).collect());
    assert_ne!(resident.era(), era, "a reader of before must see that something was lost");
    assert!(!resident.mark(40, under_way), "it may have been refused, and must be written again");
    fill(40);
    resident.sync(&data).unwrap();
    assert_eq!(set(&open(&file, 100)), set(&resident));
    assert!(!resident.has(2) && resident.has(40));
}

/// What was dropped may have been wrong on disk: what comes in its place counts from its own sync on.
#[test]
fn a_drop_that_the_disk_did_not_take_is_written_with_the_next_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (path, data) = (dir.path().join("resident"), tempfile::tempfile().unwrap());
    io::copy(&mut bitmap(40), &mut File::create(&path).unwrap()).unwrap();
    let resident = Resident::open(File::open(&path).unwrap(), 40).unwrap(); // not for writing
    resident.drop_frames([3], |_| unreachable!("the disk still says that it is there")).unwrap_err();
    assert!(resident.mark(3, resident.era_for_writing()));
    resident.sync(&refusing()).unwrap_err();
    assert!(!resident.has(3), "it was believed without its own sync");
    resident.sync(&data).unwrap_err();
}

#[test]
fn a_drop_writes_no_bit_whose_data_may_not_be_on_disk() {
    let file = bitmap(40);
    let resident = open(&file, 40);
    resident.drop_frames([1], |_| Ok(())).unwrap();
    assert!(resident.mark(1, resident.era_for_writing()));
    resident.drop_frames([2], |_| Ok(())).unwrap();
    assert_eq!(open(&file, 40).missing(0..40), Some(1..3), "frame 1 was never synced");
}

#[test]
fn a_rotten_group_is_not_resident_and_a_rotten_header_is_refused() {
    let file = bitmap(70);
    let length = file.metadata().unwrap().len();
    for at in 0..length {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let opened = Resident::open(file.try_clone().unwrap(), 70);
        if at < HEADER_BYTES as u64 {
            assert!(matches!(opened, Err(ResidentError::Damaged(_) | ResidentError::Frames { .. })), "byte {at}");
        } else {
            let group = ((at - HEADER_BYTES as u64) / GROUP_BYTES as u64) as u32;
            let lost = group * GROUP..((group + 1) * GROUP).min(70);
            assert_eq!(opened.unwrap().missing(0..70), Some(lost), "byte {at}");
        }
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(matches!(Resident::open(file.try_clone().unwrap(), 71), Err(ResidentError::Frames { has: 70, want: 71 })));
    file.set_len(length - 1).unwrap();
    assert!(matches!(Resident::open(file, 70), Err(ResidentError::Damaged("it ends early"))));
}

proptest! {
    /// Against a set of numbers for what is resident, and one for what the disk knows.
    #[test]
    fn bits_behave_like_sets(steps in prop::collection::vec((0u8..5, 0u32..70, 1u32..20), 0..60)) {
        let (file, data) = (bitmap(70), tempfile::tempfile().unwrap());
        let mut resident = open(&file, 70);
        let mut here: BTreeSet<u32> = (0..70).collect();
        let mut disk = here.clone();
        for (step, first, count) in steps {
            let range = first..(first + count).min(70);
            match step {
                0 => {
                    resident.drop_frames(range.clone(), |_| Ok(())).unwrap();
                    here.retain(|frame| !range.contains(frame));
                    disk.retain(|frame| !range.contains(frame));
                }
                1 => {
                    prop_assert!(resident.mark(first, resident.era_for_writing()));
                    here.insert(first);
                }
                2 => {
                    resident.sync(&data).unwrap();
                    disk = here.clone();
                }
                3 => {
                    // Where there is nothing to sync nothing is refused either.
                    prop_assert_eq!(resident.sync(&refusing()).is_err(), here != disk);
                    here.retain(|frame| disk.contains(frame));
                }
                _ => {
                    resident = open(&file, 70);
                    here = disk.clone();
                }
            }
            prop_assert_eq!(&set(&resident), &here);
            prop_assert_eq!(resident.all(), here.len() == 70);
            prop_assert_eq!(&set(&open(&file, 70)), &disk);
        }
    }
}
