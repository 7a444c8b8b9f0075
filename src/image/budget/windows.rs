//! Memory for windows that are being compressed. They count in their transfer's share like chunks, but not as chunks:
//! those two that every transfer gets are what a window is filled from. One window of a transfer is granted while its sink
//! holds less than two frames; when the budget is used up, only to a transfer whose sink holds none, and to a few at a
//! time, so that all go on one after the other; further ones need room in its fair part of the budget, and in the budget.
//! A transfer's window is no limit for them: it bounds what is read ahead for a sink, and would leave processors idle where
//! there are many or windows are large.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::{Budget, Share, State};

/// Number of frames with its sink from which on a transfer's next window needs room like any other.
const GRANTED_FRAMES: usize = 2;

/// Windows that may be made at a time for which there is no room in the budget.
const BEYOND_BUDGET: usize = 4;

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
        let window = self.budget.fair_part(state.shares.len());
        let budget_has_room = state.used_bytes.saturating_add(bytes) <= self.budget.limit_bytes;
        let held = state.shares.get_mut(&self.share)?;
        let is_beyond = !budget_has_room;
        let is_granted = held.windows == 0
            && match is_beyond {
                false => held.handed_out < GRANTED_FRAMES,
                true => held.handed_out == 0 && state.beyond_budget < BEYOND_BUDGET,
            };
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
        state.beyond_budget += usize::from(is_beyond);
        let budget = Arc::clone(&self.budget);
        Some(WindowRoom { bytes, share: self.share, is_handed_out: false, is_beyond, budget })
    }
}

/// The permit of a window, and then of the frame that was made of it. Given back when it is dropped.
#[derive(Debug)]
pub(in crate::image) struct WindowRoom {
    bytes: u64,
    share: u64,
    is_handed_out: bool,
    /// It is one of the few for which there was no room.
    is_beyond: bool,
    budget: Arc<Budget>,
}

impl WindowRoom {
    /// Gives back what is more than `bytes`.
    pub(in crate::image) fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.change(|state, share| {
            state.used_bytes -= surplus;
            if let Some(held) = state.shares.get_mut(&share) {
                held.bytes -= surplus;
            }
        });
    }

    /// The frame goes to the transfer's sink.
    pub(in crate::image) fn hand_out(&mut self) {
        let was_handed_out = std::mem::replace(&mut self.is_handed_out, true);
        let was_beyond = std::mem::take(&mut self.is_beyond);
        self.change(|state, share| {
            state.beyond_budget -= usize::from(was_beyond);
            if let Some(held) = state.shares.get_mut(&share).filter(|_| !was_handed_out) {
                held.windows -= 1;
                held.handed_out += 1;
            }
        });
    }

    /// Changes what the share holds, if it is still there, and wakes who waits for room.
    fn change(&self, change: impl FnOnce(&mut State, u64)) {
        let mut guard = self.budget.lock();
        let state = &mut *guard;
        change(state, self.share);
        let woken = state.take_wakers_of(self.share);
        drop(guard);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Drop for WindowRoom {
    fn drop(&mut self) {
        let (bytes, is_handed_out, is_beyond) = (self.bytes, self.is_handed_out, self.is_beyond);
        self.change(|state, share| {
            state.used_bytes -= bytes;
            state.beyond_budget -= usize::from(is_beyond);
            if let Some(held) = state.shares.get_mut(&share) {
                held.bytes -= bytes;
                match is_handed_out {
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
    fn a_transfer_has_as_many_windows_as_its_part_of_the_budget_holds_whatever_its_read_ahead() {
        let budget = Budget::new(40 * MIB, MIB);
        let share = budget.register();
        let windows = share.windows();
        let held: Vec<_> = std::iter::from_fn(|| take(&windows, 9 * MIB)).collect();
        assert_eq!(held.len(), 2, "half of the budget");
        drop((held, share));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn without_room_in_the_budget_a_few_transfers_at_a_time_get_a_window_and_then_the_next() {
        let budget = Budget::new(1, 1);
        let shares: Vec<_> = (0..BEYOND_BUDGET + 2).map(|_| budget.register()).collect();
        let windows: Vec<_> = shares.iter().map(Share::windows).collect();
        let mut held: Vec<_> = windows.iter().map(|windows| take(windows, 9 * MIB)).collect();
        let granted = held.iter().filter(|room| room.is_some()).count();
        assert_eq!(granted, BEYOND_BUDGET);
        // A frame with its sink is in nobody's way but its own transfer's.
        let mut first = held[0].take().unwrap();
        first.shrink(MIB);
        first.hand_out();
        assert!(take(&windows[0], 9 * MIB).is_none());
        assert!(take(&windows[BEYOND_BUDGET], 9 * MIB).is_some());
        drop((first, held));
        drop(shares);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_frame_takes_what_it_has_and_two_with_the_sink_hold_up_the_next_window() {
        let budget = Budget::new(40 * MIB, MIB);
        let share = budget.register();
        let windows = share.windows();
        let mut frames = Vec::new();
        for _ in 0..2 {
            let mut room = take(&windows, 15 * MIB).unwrap();
            room.shrink(10 * MIB);
            assert!(take(&windows, 15 * MIB).is_none(), "one is made and not handed out");
            room.hand_out();
            frames.push(room);
        }
        assert_eq!(budget.used_bytes(), 20 * MIB);
        assert!(take(&windows, 15 * MIB).is_none());
        frames.pop();
        assert!(take(&windows, 15 * MIB).is_some());
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
