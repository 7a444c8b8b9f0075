//! How many connections there are, of all, of one address before anybody has signed in, and of one user.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::UserId;

/// Connections at the same time.
const MAX_ALL: usize = 512;
/// Connections of one address on which nobody has signed in.
const MAX_OF_ADDRESS: usize = 64;
/// Connections of one user.
pub const MAX_OF_USER: usize = 64;

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    addresses: HashMap<IpAddr, usize>,
    users: HashMap<UserId, usize>,
}

/// Counts the connections. Clones share the count.
#[derive(Debug, Default, Clone)]
pub struct Seats {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Clone, Copy)]
enum Taken {
    Address(IpAddr),
    User(UserId),
}

/// One connection, for as long as it lasts.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    taken: Taken,
}

/// There are as many connections as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// The most.
    pub most: usize,
}

fn take<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, most: usize) -> Result<(), Full> {
    if counts.get(&key).is_some_and(|count| *count >= most) {
        return Err(Full { most });
    }
    *counts.entry(key).or_default() += 1;
    Ok(())
}

fn give_back<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count = count.saturating_sub(1);
    if *count == 0 {
        counts.remove(key);
    }
}

impl Counts {
    fn take(&mut self, taken: Taken) -> Result<(), Full> {
        match taken {
            Taken::Address(address) => take(&mut self.addresses, address, MAX_OF_ADDRESS),
            Taken::User(user) => take(&mut self.users, user, MAX_OF_USER),
        }
    }

    fn give_back(&mut self, taken: Taken) {
        match taken {
            Taken::Address(address) => give_back(&mut self.addresses, &address),
            Taken::User(user) => give_back(&mut self.users, &user),
        }
    }
}

impl Seats {
    /// Takes a seat for a connection from an address.
    ///
    /// # Errors
    /// [`Full`].
    pub fn open(&self, address: IpAddr) -> Result<Seat, Full> {
        let taken = Taken::Address(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= MAX_ALL {
            return Err(Full { most: MAX_ALL });
        }
        counts.take(taken)?;
        counts.all += 1;
        Ok(Seat { seats: self.clone(), taken })
    }
}

impl Seat {
    /// From now on the connection is this user's.
    ///
    /// # Errors
    /// [`Full`]; the connection stays whose it was.
    pub fn belong_to(&mut self, user: UserId) -> Result<(), Full> {
        self.change(Taken::User(user))
    }

    /// From now on the connection is nobody's again.
    ///
    /// # Errors
    /// [`Full`]; the connection stays whose it was.
    pub fn belong_to_nobody(&mut self, address: IpAddr) -> Result<(), Full> {
        self.change(Taken::Address(address))
    }

    fn change(&mut self, taken: Taken) -> Result<(), Full> {
        let mut counts = self.seats.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Given back first, so that the same user again is not one too many.
        counts.give_back(self.taken);
        match counts.take(taken) {
            Ok(()) => {
                self.taken = taken;
                Ok(())
            }
            Err(full) => {
                // There was room a moment ago, under the same lock.
                let restored = counts.take(self.taken);
                debug_assert!(restored.is_ok(), "the seat was taken by somebody else");
                Err(full)
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.seats.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.give_back(self.taken);
        counts.all = counts.all.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn one_address_cannot_take_all_seats_and_signing_in_gives_its_seat_back() {
        let (seats, user) = (Seats::default(), UserId::random());
        let mut taken: Vec<Seat> = (0..MAX_OF_ADDRESS).map(|_| seats.open(address(1)).unwrap()).collect();
        assert_eq!(seats.open(address(1)).unwrap_err(), Full { most: MAX_OF_ADDRESS });
        seats.open(address(2)).unwrap();
        taken[0].belong_to(user).unwrap();
        taken.push(seats.open(address(1)).unwrap());
        assert_eq!(taken[0].belong_to_nobody(address(1)), Err(Full { most: MAX_OF_ADDRESS }));
        drop(taken);
        let counts = seats.counts.lock().unwrap();
        assert_eq!((counts.all, counts.addresses.len(), counts.users.len()), (0, 0, 0));
    }

    #[test]
    fn a_user_has_so_many_and_may_sign_in_again_where_he_is() {
        let (seats, user) = (Seats::default(), UserId::random());
        let mut taken: Vec<Seat> = (0..MAX_OF_USER).map(|_| seats.open(address(1)).unwrap()).collect();
        for seat in &mut taken {
            seat.belong_to(user).unwrap();
        }
        taken[0].belong_to(user).unwrap();
        let mut one_more = seats.open(address(1)).unwrap();
        assert_eq!(one_more.belong_to(user), Err(Full { most: MAX_OF_USER }));
        one_more.belong_to(UserId::random()).unwrap();
    }

    #[test]
    fn all_together_are_bounded() {
        let seats = Seats::default();
        let taken: Vec<Seat> = (0..MAX_ALL)
            .map(|n| seats.open(IpAddr::from([10, 0, (n >> 8) as u8, n as u8])).unwrap())
            .collect();
        assert_eq!(seats.open(address(1)).unwrap_err(), Full { most: MAX_ALL });
        drop(taken);
        seats.open(address(1)).unwrap();
    }
}
