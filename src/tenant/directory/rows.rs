//! Tenants as the database has them, and the rights that follow from them.

use std::collections::{HashMap, HashSet};

use super::StaticKey;
use crate::{
    db::{Db, DbError},
    tenant::{
        Budget, DEFAULT, Grant, Scope, budgets,
        key::KeyHash,
        store::{
            keys::{self, ApiKey},
            provider_keys::{self, Changed, ProviderKey},
        },
    },
};

/// A key's public id as a number.
pub(super) fn number(id: &str) -> Option<u64> {
    u64::from_str_radix(id.rsplit('_').next()?, 16).ok()
}

/// Rows that changed.
pub(super) struct Changes {
    keys: Vec<(ApiKey, KeyHash)>,
    budgets: Vec<BudgetRow>,
    projects: Vec<ProjectRow>,
    orgs: Vec<OrgRow>,
    provider_keys: Vec<provider_keys::Changed>,
}

struct BudgetRow {
    org: String,
    budget: Budget,
    is_live: bool,
}

struct ProjectRow {
    id: String,
    project: Project,
}

struct OrgRow {
    id: String,
    org: Org,
}

#[derive(Debug)]
struct Project {
    org: String,
    name: String,
    is_live: bool,
}

#[derive(Debug)]
struct Org {
    is_prepaid: bool,
    is_live: bool,
}

/// Reads the rows that changed after a revision, or all. What others refer to is read after them,
/// so that nothing is ever seen without what it needs.
pub(super) async fn read(db: &Db, after: Option<i64>) -> Result<Changes, DbError> {
    let rev = after.unwrap_or(i64::MIN);
    let keys = keys::since(db, rev).await?;
    let sql = format!("SELECT {}, org, deleted_at FROM budget WHERE rev > $1", budgets::COLUMNS);
    let rows = db.query(sql, vec![rev.into()]).await?;
    let budget = |row: &crate::db::Row| {
        let budget = budgets::read(row)?;
        Ok(BudgetRow { budget, org: row.text(8)?, is_live: row.opt_int(9)?.is_none() })
    };
    let budgets = rows.iter().map(budget).collect::<Result<_, DbError>>()?;
    let sql = "SELECT id, org, name, deleted_at FROM project WHERE rev > $1";
    let rows = db.query(sql, vec![rev.into()]).await?;
    let project = |row: &crate::db::Row| {
        let is_live = row.opt_int(3)?.is_none();
        let project = Project { org: row.text(1)?, name: row.text(2)?, is_live };
        Ok(ProjectRow { id: row.text(0)?, project })
    };
    let projects = rows.iter().map(project).collect::<Result<_, DbError>>()?;
    let sql = "SELECT id, prepaid, deleted_at FROM org WHERE rev > $1";
    let rows = db.query(sql, vec![rev.into()]).await?;
    let org = |row: &crate::db::Row| {
        let org = Org { is_prepaid: row.int(1)? != 0, is_live: row.opt_int(2)?.is_none() };
        Ok(OrgRow { id: row.text(0)?, org })
    };
    let orgs = rows.iter().map(org).collect::<Result<_, DbError>>()?;
    let provider_keys = provider_keys::since(db, rev).await?;
    Ok(Changes { keys, budgets, projects, orgs, provider_keys })
}

/// Whose rights a change may have changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    keys: HashSet<u64>,
    orgs: HashSet<String>,
    pub(super) provider_keys: bool,
}

impl Touched {
    pub(super) fn covers(&self, key: u64, org: &str) -> bool {
        self.keys.contains(&key) || self.orgs.contains(org)
    }
}

/// All tenants.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) keys: HashMap<u64, (KeyHash, ApiKey)>,
    /// By whose they are; those for users under their organisation.
    budgets: HashMap<(Scope, String), Vec<Budget>>,
    projects: HashMap<String, Project>,
    orgs: HashMap<String, Org>,
    /// By id, sealed.
    pub(super) provider_keys: HashMap<String, (ProviderKey, Vec<u8>)>,
}

impl Rows {
    pub(super) fn apply(&mut self, changes: Changes) -> Touched {
        let mut touched = Touched::default();
        for (key, hash) in changes.keys {
            let Some(id) = number(&key.id) else { continue };
            touched.keys.insert(id);
            self.keys.insert(id, (hash, key));
        }
        for BudgetRow { org, budget, is_live } in changes.budgets {
            let owner = match budget.scope {
                Scope::User => org.clone(),
                Scope::Key | Scope::Project | Scope::Org => budget.scope_id.clone(),
            };
            match budget.scope {
                Scope::Key => touched.keys.extend(number(&budget.scope_id)),
                Scope::User | Scope::Project | Scope::Org => drop(touched.orgs.insert(org)),
            }
            let of_owner = self.budgets.entry((budget.scope, owner)).or_default();
            of_owner.retain(|other| other.id != budget.id);
            if is_live {
                of_owner.push(budget);
                of_owner.sort_by(|a, b| a.id.cmp(&b.id));
            }
        }
        for ProjectRow { id, project } in changes.projects {
            touched.orgs.insert(project.org.clone());
            self.projects.insert(id, project);
        }
        for OrgRow { id, org } in changes.orgs {
            touched.orgs.insert(id.clone());
            self.orgs.insert(id, org);
        }
        for Changed { key, sealed } in changes.provider_keys {
            touched.provider_keys = true;
            match sealed {
                Some(sealed) => drop(self.provider_keys.insert(key.id.clone(), (key, sealed))),
                None => drop(self.provider_keys.remove(&key.id)),
            }
        }
        touched
    }

    /// What a key may do; nothing once it, its project or its organisation is gone.
    pub(super) fn grant(&self, key: &ApiKey) -> Option<Grant> {
        let project = self.projects.get(&key.project).filter(|p| p.is_live);
        let org = self.orgs.get(&key.org).filter(|o| o.is_live);
        let is_live = key.revoked_at.is_none() && project.is_some();
        let org = org.filter(|_| is_live)?;
        let rights = &key.rights;
        Some(Grant {
            key_id: key.id.clone(),
            key_name: rights.name.clone(),
            org: key.org.clone(),
            project: key.project.clone(),
            models: rights.models.clone(),
            endpoints: rights.endpoints.clone(),
            expires_at: rights.expires_at,
            limits: rights.limits,
            budgets: self.budgets_of(&key.id, &key.project, &key.org),
            prepaid: org.is_prepaid,
            join_retries: rights.join_retries,
            heartbeat: rights.heartbeat,
        })
    }

    /// What a key of the configuration may do.
    pub(super) fn static_grant(&self, key_id: String, key: &StaticKey) -> Grant {
        let (project, org) = self.project_of(&key.project);
        let mut budgets: Vec<Budget> = key.budget.iter().cloned().collect();
        budgets.extend(self.budgets_of(&key_id, project, org));
        Grant {
            key_name: key.name.clone(),
            org: org.to_owned(),
            project: project.to_owned(),
            models: key.models.clone(),
            endpoints: key.endpoints.clone(),
            expires_at: None,
            limits: key.limits,
            budgets,
            prepaid: self.orgs.get(org).is_some_and(|o| o.is_prepaid),
            join_retries: true,
            heartbeat: false,
            key_id,
        }
    }

    /// Id and organisation of a project that the configuration names by id, by its name within the
    /// default organisation, or by a word that is its own.
    fn project_of<'a>(&'a self, text: &'a str) -> (&'a str, &'a str) {
        if let Some(project) = self.projects.get(text) {
            return (text, &project.org);
        }
        let named = self.projects.iter().find(|(_, p)| p.org == DEFAULT && p.name == text);
        named.map_or((text, DEFAULT), |(id, project)| (id, &project.org))
    }

    fn budgets_of(&self, key: &str, project: &str, org: &str) -> Vec<Budget> {
        [(Scope::Key, key), (Scope::User, org), (Scope::Project, project), (Scope::Org, org)]
            .into_iter()
            .filter_map(|(scope, id)| self.budgets.get(&(scope, id.to_owned())))
            .flatten()
            .cloned()
            .collect()
    }
}
