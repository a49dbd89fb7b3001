//! What a role must be allowed that runs the daemon and does not own the tables.

use super::{Result, Tx, query::fetch_all};

/// The mirror, which follows reorgs, and limits that an operator takes back.
const DELETED: [&str; 5] =
    ["x402_pull_events", "passed_events", "payout_events", "splitter_events", "spending_limits"];

#[derive(sqlx::FromRow)]
struct Relation {
    name: String,
    updated: bool,
    is_view: bool,
}

#[derive(sqlx::FromRow)]
struct Name {
    name: String,
}

impl Tx {
    /// The statements that let a role do the daemon's work and no more; none on SQLite, which knows no
    /// roles. What the triggers forbid to everybody is not granted.
    pub async fn grants(&mut self, role: &str) -> Result<Vec<String>> {
        const DATABASE: &str = "SELECT CAST(current_database() AS TEXT) AS name";
        const RELATIONS: &str = "SELECT CAST(c.relname AS TEXT) AS name,
                NOT EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid
                    AND t.tgname = c.relname || '_no_update') AS updated,
                c.relkind = 'v' OR c.relname = '_sqlx_migrations' AS is_view
            FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
            WHERE s.nspname = 'jecp' AND c.relkind IN ('r', 'v') ORDER BY c.relname";
        if matches!(self, Self::Sqlite(_)) {
            return Ok(Vec::new());
        }
        let role = quoted(role);
        let mut statements = Vec::new();
        for Name { name } in fetch_all!(self, Name, DATABASE)? {
            statements.push(format!("GRANT CONNECT ON DATABASE {} TO {role};", quoted(&name)));
        }
        statements.push(format!("GRANT USAGE ON SCHEMA jecp TO {role};"));
        for relation in fetch_all!(self, Relation, RELATIONS)? {
            let mut rights = vec!["SELECT"];
            if !relation.is_view {
                rights.push("INSERT");
                rights.extend(relation.updated.then_some("UPDATE"));
                let deleted = DELETED.contains(&relation.name.as_str());
                rights.extend(deleted.then_some("DELETE"));
            }
            let (rights, name) = (rights.join(", "), quoted(&relation.name));
            statements.push(format!("GRANT {rights} ON jecp.{name} TO {role};"));
        }
        // Which history of the database this is; everybody may, unless somebody revoked it.
        for function in ["pg_control_system()", "pg_current_wal_lsn()", "pg_walfile_name(pg_lsn)"] {
            statements.push(format!("GRANT EXECUTE ON FUNCTION {function} TO {role};"));
        }
        Ok(statements)
    }
}

/// A name as SQL takes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
