//! Users and what they may do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{moment::Moment, refusal::Refusal, state::State};

/// The role that may do everything.
pub(crate) const ADMIN: &str = "Admin";
/// The user that is made at the first start.
pub(crate) const FIRST_USER: &str = "Admin";
/// The only organization there is.
pub(crate) const ROOT_ORGANIZATION: &str = "root";

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) email: String,
    /// In PHC form, salt and parameters included.
    pub(crate) password_hash: String,
    pub(crate) roles: Vec<String>,
    /// Name of the organization.
    pub(crate) organization: String,
    pub(crate) created: Timestamp,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) user_id: String,
    pub(crate) admin: bool,
}

impl Caller {
    pub(crate) fn require_admin(&self) -> Result<(), Refusal> {
        if self.admin { Ok(()) } else { Err(Refusal::NotAdmin) }
    }

    pub(crate) fn may_use(&self, owner_id: &str) -> bool {
        self.admin || self.user_id == owner_id
    }
}

impl State {
    /// The user of that name with its id.
    pub(crate) fn user(&self, name: &str) -> Option<(&String, &User)> {
        self.users.iter().find(|(_, user)| user.name == name)
    }

    /// Adds a user and returns its id.
    pub(crate) fn add_user(
        &mut self,
        name: &str,
        email: &str,
        password_hash: String,
        roles: Vec<String>,
        now: Moment,
    ) -> Result<String, Refusal> {
        if self.user(name).is_some() {
            return Err(Refusal::Exists { what: "user", name: name.to_owned() });
        }
        let id = self.new_id(now);
        let user = User {
            name: name.to_owned(),
            email: email.to_owned(),
            password_hash,
            roles,
            organization: ROOT_ORGANIZATION.to_owned(),
            created: now.wall,
        };
        self.users.put(id.clone(), user);
        Ok(id)
    }

    pub(crate) fn set_password(&mut self, id: &str, hash: String) -> Result<(), Refusal> {
        let user = self.users.get(id).cloned().ok_or_else(|| Refusal::not_found("user", id))?;
        self.users.put(id.to_owned(), User { password_hash: hash, ..user });
        Ok(())
    }
}
