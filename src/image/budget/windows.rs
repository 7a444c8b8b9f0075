//! Memory for windows that are being compressed. They count in their transfer's share like chunks, but not as chunks:
//! those two that every transfer gets are what a window is filled from. One window of a transfer is always granted
//! while its sink holds less than two frames; further ones need room in its share and in the budget.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::{Budget, Share};

/// Number of frames with its sink from which on a transfer's next window needs room like any other.
const GRANTED_FRAMES: usize = 2;

/// A transfer's share, as its windows see it. It ends with the [`Share`].
#[derive(Debug)]
pub(in crate::image) struct WindowShare {
    share: u64,
    budget: Arc<Budget>,
}

impl Share {
    /// The same share for windows.
    pub(in crate::image) fn windows(&self) -> WindowShare {
        WindowShare { share: self.id, budget: Arc::clone(&self.budget) }
    }
}

impl WindowShare {
    /// The permit for a window that takes `bytes` while it is compressed. `None`: there is no room, and the task is
    /// woken when there may be.
    pub(in crate::image) fn poll_room(&self, cx: &Context<'_>, bytes: u64) -> Option<WindowRoom> {
        let mut guard = self.budget.lock();
        let state = &mut *guard;
        let window = self.budget.window_of(state.shares.len());
        let budget_has_room = state.used_bytes.saturating_add(bytes) <= self.budget.limit_bytes;
        let held = state.shares.get_mut(&self.share)?;
        let is_granted = held.windows == 0 && held.handed_out < GRANTED_FRAMES;
        let share_has_room = held.bytes.saturating_add(bytes) <= window;
        if !(is_granted || budget_has_room && share_has_room) {
            held.waits_for_budget = !budget_has_room;
            if held.waker.replace(cx.waker().clone()).is_none() {
                state.waiting += 1;
            }
            return None;
        }
        held.bytes += bytes;
        held.windows += 1;
        state.used_bytes += bytes;
        let budget = Arc::clone(&self.budget);
        Some(WindowRoom { bytes, share: self.share, is_handed_out: false, budget })
    }
}

/// The permit of a window, and then of the frame that was made of it. Given back when it is dropped.
#[derive(Debug)]
pub(in crate::image) struct WindowRoom {
    bytes: u64,
    share: u64,
    is_handed_out: bool,
    budget: Arc<Budget>,
}

impl WindowRoom {
    /// Gives back what is more than `bytes`.
    pub(in crate::image) fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.change(|held, used_bytes, _| {
            *used_bytes -= surplus;
            if let Some(held) = held {
                held.bytes -= surplus;
            }
        });
    }

    /// The frame goes to the transfer's sink.
    pub(in crate::image) fn hand_out(&mut self) {
        let was_handed_out = std::mem::replace(&mut self.is_handed_out, true);
        self.change(|held, _, _| {
            if let Some(held) = held.filter(|_| !was_handed_out) {
                held.windows -= 1;
                held.handed_out += 1;
            }
        });
    }

    /// Changes what the share holds, if it is still there, and wakes who waits for room.
    fn change(&self, change: impl FnOnce(Option<&mut super::Held>, &mut u64, &Self)) {
        let mut guard = self.budget.lock();
        let state = &mut *guard;
        change(state.shares.get_mut(&self.share), &mut state.used_bytes, self);
        let woken = state.take_wakers_of(self.share);
        drop(guard);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Drop for WindowRoom {
    fn drop(&mut self) {
        self.change(|held, used_bytes, room| {
            *used_bytes -= room.bytes;
            if let Some(held) = held {
                held.bytes -= room.bytes;
                match room.is_handed_out {
                    true => held.handed_out -= 1,
                    false => held.windows -= 1,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn take(share: &WindowShare, bytes: u64) -> Option<WindowRoom> {
        share.poll_room(&Context::from_waker(Waker::noop()), bytes)
    }

    #[test]
    fn one_window_is_always_granted_and_more_only_while_there_is_room() {
        let budget = Budget::new(20 * MIB, 32 * MIB);
        let (one, two) = (budget.register(), budget.register());
        let (first, second) = (one.windows(), two.windows());
        // A third of the budget is a share, which no window fits.
        let held = take(&first, 9 * MIB).unwrap();
        assert!(take(&first, 1).is_none());
        let other = take(&second, 9 * MIB).unwrap();
        assert_eq!(budget.used_bytes(), 18 * MIB);
        drop((other, two));
        assert!(take(&first, MIB).is_some(), "its share has grown");
        assert!(take(&first, 2 * MIB).is_none());
        drop((held, one));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_frame_takes_what_it_has_and_two_with_the_sink_hold_up_the_next_window() {
        let budget = Budget::new(MIB, MIB);
        let share = budget.register();
        let windows = share.windows();
        let mut frames = Vec::new();
        for _ in 0..2 {
            let mut room = take(&windows, 9 * MIB).unwrap();
            room.shrink(600 << 10);
            assert!(take(&windows, 9 * MIB).is_none(), "one is made and not handed out");
            room.hand_out();
            frames.push(room);
        }
        assert_eq!(budget.used_bytes(), 1200 << 10);
        assert!(take(&windows, 9 * MIB).is_none());
        frames.pop();
        assert!(take(&windows, 9 * MIB).is_some());
        drop((share, frames));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn windows_do_not_take_the_chunks_that_they_are_filled_from() {
        let budget = Budget::new(1, 1);
        let share = budget.register();
        let window = take(&share.windows(), 9 * MIB).unwrap();
        let cx = Context::from_waker(Waker::noop());
        let chunks: Vec<_> = (0..2).map(|_| share.poll_buffer(&cx, 64 << 10).unwrap()).collect();
        assert!(share.poll_buffer(&cx, 64 << 10).is_none());
        drop((window, chunks));
        assert_eq!(budget.used_bytes(), 0);
    }
}
