//! Workers' table queries: answered from what is known, else by asking the root once for all who
//! wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use xylem_types::{
    mqtt::{IpType, PeerKind, TableAnswer, TableQuery},
    session::FromCluster,
};

use super::{Cluster, Time};
use crate::message::ToWorker;

/// Most questions that wait for the root at a time; one more is answered "unknown".
const PENDING_MAX: usize = 1024;
/// Most questions under way to the root at a time: a session that falls behind is ended.
const ASKED_MAX: usize = 256;
/// Most of the root's "unknown" that are remembered.
const UNKNOWN_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Queries {
    pending: BTreeMap<QueryKey, Pending>,
    /// What is asked of the root at the moment, by request id.
    asked: BTreeMap<u64, QueryKey>,
    last_request: u64,
    /// What the root does not know, and until when that is believed.
    unknown: BTreeMap<QueryKey, Time>,
}

/// What a query is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum QueryKey {
    Name(String),
    Ip(IpAddr),
}

#[derive(Debug)]
struct Pending {
    /// Workers to be answered, with the words of their question.
    waiters: BTreeSet<(String, String)>,
    give_up_at: Time,
    request: Option<u64>,
    /// The service changed since the root was asked.
    again: bool,
}

impl QueryKey {
    /// `None` for a query that asks for nothing, or for an address that is none.
    fn of(query: &TableQuery) -> Option<Self> {
        match (query.sname.as_str(), query.sip.as_str()) {
            ("", "") => None,
            ("", ip) => ip.parse().ok().map(Self::Ip),
            (name, _) => Some(Self::Name(name.to_owned())),
        }
    }

    fn query(&self) -> TableQuery {
        match self {
            Self::Name(name) => TableQuery { sname: name.clone(), sip: String::new() },
            Self::Ip(ip) => TableQuery { sname: String::new(), sip: ip.to_string() },
        }
    }
}

impl Cluster {
    pub(super) fn on_query(&mut self, worker: &str, query: &TableQuery, now: Time) {
        let words = if query.sname.is_empty() { &query.sip } else { &query.sname };
        let Some(key) = QueryKey::of(query) else {
            return self.answer_unknown(worker, words);
        };
        if let Some(job_name) = self.known_as(&key)
            && (self.addresses_known(&job_name) || !self.root_listens())
        {
            return self.answer(worker, &job_name, words);
        }
        if self.queries.unknown.get(&key).is_some_and(|until| now < *until) {
            return self.answer_unknown(worker, words);
        }
        let waiter = (worker.to_owned(), words.clone());
        if !self.ask_root(key, Some(waiter), now) {
            self.answer_unknown(worker, words);
        }
    }

    /// Asks the root, or waits with those who asked before; false when too many wait.
    pub(super) fn ask_root(
        &mut self,
        key: QueryKey,
        waiter: Option<(String, String)>,
        now: Time,
    ) -> bool {
        if !self.queries.pending.contains_key(&key) && self.queries.pending.len() >= PENDING_MAX {
            return false;
        }
        let give_up_at = now + self.settings.query_patience;
        let pending = self.queries.pending.entry(key.clone()).or_insert_with(|| Pending {
            waiters: BTreeSet::new(),
            give_up_at,
            request: None,
            again: false,
        });
        if pending.waiters.is_empty() {
            pending.give_up_at = give_up_at;
        }
        pending.waiters.extend(waiter);
        if pending.request.is_none() {
            self.send_query(&key);
        }
        true
    }

    /// What the root said of this service no longer holds.
    pub(super) fn refresh(&mut self, job_name: &str, now: Time) {
        let key = QueryKey::Name(job_name.to_owned());
        if let Some(pending) = self.queries.pending.get_mut(&key) {
            pending.again = pending.request.is_some();
        }
        self.ask_root(key, None, now);
    }

    fn send_query(&mut self, key: &QueryKey) {
        if !self.root_listens() || self.queries.asked.len() >= ASKED_MAX {
            return;
        }
        let queries = &mut self.queries;
        let Some(pending) = queries.pending.get_mut(key) else { return };
        queries.last_request += 1;
        let request_id = queries.last_request;
        pending.request = Some(request_id);
        queries.asked.insert(request_id, key.clone());
        self.tell_root(FromCluster::TableQuery { request_id, query: key.query() });
    }

    pub(super) fn on_root_answer(&mut self, request_id: u64, answer: TableAnswer, now: Time) {
        let Some(key) = self.queries.asked.remove(&request_id) else { return };
        let Some(pending) = self.queries.pending.remove(&key) else { return };
        let job_name = answer.app_name.clone();
        if job_name.is_empty() {
            if let QueryKey::Name(name) = &key {
                self.service_unknown_at_root(name);
            }
            if self.queries.unknown.len() < UNKNOWN_MAX {
                self.queries.unknown.insert(key.clone(), now + self.settings.unknown_for);
            }
        } else {
            self.queries.unknown.remove(&key);
            self.store_answer(TableAnswer { query_key: String::new(), ..answer });
        }
        for (worker, words) in pending.waiters {
            if job_name.is_empty() {
                self.answer_unknown(&worker, &words);
            } else {
                self.answer(&worker, &job_name, &words);
            }
        }
        if !job_name.is_empty() {
            // The root counts us interested by having asked.
            self.forget_unused(&job_name);
        }
        if pending.again {
            self.ask_root(key, None, now);
        }
        self.ask_the_next();
    }

    /// What had to wait because too much was under way.
    fn ask_the_next(&mut self) {
        let free = ASKED_MAX.saturating_sub(self.queries.asked.len());
        let next: Vec<QueryKey> = self
            .queries
            .pending
            .iter()
            .filter(|(_, pending)| pending.request.is_none())
            .map(|(key, _)| key.clone())
            .take(free)
            .collect();
        for key in next {
            self.send_query(&key);
        }
    }

    /// The session is new: nothing asked in an older one will be answered, and whatever we know
    /// may have changed meanwhile.
    pub(super) fn ask_everything_again(&mut self, now: Time) {
        let names: Vec<String> = self.services.keys().cloned().collect();
        for name in names {
            self.ask_root(QueryKey::Name(name), None, now);
        }
        self.ask_the_next();
        self.learn_missing_addresses(now);
    }

    pub(super) fn forget_requests(&mut self) {
        self.queries.asked.clear();
        for pending in self.queries.pending.values_mut() {
            pending.request = None;
            pending.again = false;
        }
    }

    pub(super) fn review_queries(&mut self, now: Time) {
        self.queries.unknown.retain(|_, until| now < *until);
        let root_listens = self.root_listens();
        let overdue: Vec<QueryKey> = self
            .queries
            .pending
            .iter()
            .filter(|(_, pending)| pending.give_up_at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in overdue {
            let Some(pending) = self.queries.pending.get_mut(&key) else { continue };
            let waiters = std::mem::take(&mut pending.waiters);
            if root_listens {
                // Late is better than never: the answer will be kept and announced.
                pending.give_up_at = Time::MAX;
            } else {
                self.queries.pending.remove(&key);
            }
            let known = self.known_as(&key);
            for (worker, words) in waiters {
                match &known {
                    Some(job_name) => self.answer(&worker, job_name, &words),
                    None => {
                        self.tally.unanswered_queries += 1;
                        self.answer_unknown(&worker, &words);
                    }
                }
            }
        }
    }

    /// The service that the query means, if we know it.
    fn known_as(&self, key: &QueryKey) -> Option<String> {
        match key {
            QueryKey::Name(name) => self.services.contains_key(name).then(|| name.clone()),
            QueryKey::Ip(ip) => self.addresses.get(ip).cloned(),
        }
    }

    fn answer(&mut self, worker: &str, job_name: &str, words: &str) {
        let Some(mut answer) = self.answer_for(job_name, words) else {
            return self.answer_unknown(worker, words);
        };
        if self.workers.get(worker).is_none_or(|w| w.kind() == PeerKind::Oakestra) {
            // Oakestra's net manager dials whatever is in the list, and takes an address of a
            // policy that it does not know for the instance's own.
            answer.instance_list.retain(|entry| !entry.namespace_ip.is_empty());
            let known = [IpType::RoundRobin, IpType::Closest, IpType::Instance];
            let addresses = answer.instance_list.iter_mut().map(|entry| &mut entry.service_ip);
            for addresses in addresses.chain([&mut answer.service_ip]) {
                addresses.retain(|address| known.contains(&address.ip_type));
            }
        } else {
            for entry in &mut answer.instance_list {
                entry.service_ip.retain(|address| address.ip_type == IpType::Instance);
            }
        }
        self.add_interest(job_name, worker);
        self.send(worker, ToWorker::Answer(answer));
    }

    fn answer_unknown(&mut self, worker: &str, words: &str) {
        let query_key = words.to_owned();
        self.send(worker, ToWorker::Answer(TableAnswer { query_key, ..TableAnswer::default() }));
    }
}
