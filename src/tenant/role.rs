//! What an operator may do.

use serde::{Deserialize, Serialize};

/// How much an operator may do within an organisation; each role may all that the lower ones may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Makes and revokes keys.
    Member,
    /// Manages projects, limits, budgets and provider keys.
    Admin,
    /// Manages the other operators.
    Owner,
}

impl Role {
    /// Every role, the lowest first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Member, Self::Admin, Self::Owner];

    /// Its name in the API and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// What somebody is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Look at what an organisation has.
    Read,
    /// Make or revoke a key.
    MakeKeys,
    /// Change a key's rights, projects, budgets or provider keys.
    Manage,
    /// Make or revoke the credentials of operators.
    ManageOperators,
    /// Make, change or delete organisations. Only for those that stand above all of them: how an
    /// organisation pays is not its own business.
    ManageOrgs,
}

impl Act {
    /// The lowest role that may do it.
    pub const fn needs(self) -> Role {
        match self {
            Self::Read => Role::Viewer,
            Self::MakeKeys => Role::Member,
            Self::Manage => Role::Admin,
            Self::ManageOperators | Self::ManageOrgs => Role::Owner,
        }
    }
}

/// Who acts on the admin listener or the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// What the audit log calls it: the id of an admin key, `config` or `cli`.
    pub id: String,
    /// The organisation it belongs to; none stands above all of them.
    pub org: Option<String>,
    /// What it may do there.
    pub role: Role,
}

/// Why an act is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It concerns another organisation, which does not exist for this operator.
    Elsewhere,
    /// It needs this role.
    Needs(Role),
    /// It is for operators above all organisations.
    NeedsAll,
}

impl Actor {
    /// The holder of the configuration's admin key, or of the database itself: may everything.
    pub fn above_all(id: impl Into<String>) -> Self {
        Self { id: id.into(), org: None, role: Role::Owner }
    }

    /// Whether an organisation exists as far as this operator is concerned.
    pub fn sees(&self, org: &str) -> bool {
        self.org.as_deref().is_none_or(|own| own == org)
    }

    /// Whether it may do this in an organisation.
    pub fn may(&self, act: Act, org: &str) -> Result<(), Denied> {
        if !self.sees(org) {
            return Err(Denied::Elsewhere);
        }
        if act == Act::ManageOrgs && self.org.is_some() {
            return Err(Denied::NeedsAll);
        }
        if self.role < act.needs() {
            return Err(Denied::Needs(act.needs()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_kept_by_name() {
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
        assert_eq!(Role::named("root"), None);
    }

    #[test]
    fn every_role_may_what_it_may() {
        let all = [Act::Read, Act::MakeKeys, Act::Manage, Act::ManageOperators, Act::ManageOrgs];
        for (role, within, above) in
            [(Role::Viewer, 1, 1), (Role::Member, 2, 2), (Role::Admin, 3, 3), (Role::Owner, 4, 5)]
        {
            for (org, may) in [(Some("a".to_owned()), within), (None, above)] {
                let actor = Actor { id: "x".to_owned(), org, role };
                let allowed = all.iter().filter(|act| actor.may(**act, "a").is_ok()).count();
                assert_eq!(allowed, may, "{actor:?}");
                // Nothing at all elsewhere.
                for act in all {
                    let elsewhere = actor.may(act, "b");
                    assert_eq!(elsewhere == Err(Denied::Elsewhere), actor.org.is_some(), "{act:?}");
                }
            }
        }
    }
}
