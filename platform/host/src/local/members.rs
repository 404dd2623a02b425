//! The databases of this process, compared with each other before anything is created: is one of them lost, or another installation's?
//!
//! Each carries the id of its installation and the names of all databases known to it. A process compares those it opens itself; what other processes
//! have, it does not ask.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{anyhow, bail};
use banyan_core::{Fault, Timestamp, without_password};
use banyan_durable::{
    Connection, Storage,
    installation::{self, Found, Membership},
    marks::{self, Marks},
};
use uuid::Uuid;

/// One database.
pub struct Place {
    /// The name of the module, or of further storage.
    pub name: &'static str,
    pub storage: Storage,
    pub found: Found,
}

impl Place {
    fn membership(&self) -> Option<&Membership> {
        match &self.found {
            Found::Member(membership) => Some(membership),
            Found::Nothing | Found::Unmarked => None,
        }
    }

    /// Its own mark; 0 if it has none.
    fn mark(&self) -> i64 {
        let marks = self.membership().and_then(|own| own.marks.as_ref());
        marks.and_then(|marks| marks.get(self.name)).copied().unwrap_or(0)
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let connection = Connection::open_existing(&self.storage, self.name).await;
        connection
            .map_err(refused)?
            .ok_or_else(|| anyhow!("{} does not exist", described(&self.storage)))
    }
}

fn described(storage: &Storage) -> String {
    match storage {
        Storage::Sqlite { path } => format!("the file {}", path.display()),
        Storage::Postgres { url, schema } => format!("the schema {schema} at {}", without_password(url)),
    }
}

fn refused(fault: Fault) -> anyhow::Error {
    anyhow!("{}", fault.detail)
}

/// The databases of all modules in this process.
pub struct Members(Vec<Place>);

impl Members {
    pub fn new(places: Vec<Place>) -> Self {
        Members(places)
    }

    /// Whether the database has tables.
    pub fn exists(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|place| place.name == name && place.found != Found::Nothing)
    }

    /// The names that any of the databases knows.
    fn known(&self) -> BTreeSet<&str> {
        let memberships = self.0.iter().filter_map(Place::membership);
        memberships
            .flat_map(|membership| membership.members.iter().map(String::as_str))
            .collect()
    }

    /// The installation that most of the databases belong to.
    fn installation(&self) -> Option<Uuid> {
        let mut databases: BTreeMap<Uuid, usize> = BTreeMap::new();
        for membership in self.0.iter().filter_map(Place::membership) {
            *databases.entry(membership.installation).or_default() += 1;
        }
        databases.into_iter().max_by_key(|(_, count)| *count).map(|(id, _)| id)
    }

    /// # Errors
    /// A database belongs to another installation than most; one that the others know is missing or has no tables. With how to restore it.
    pub fn check(&self) -> anyhow::Result<()> {
        self.check_installation()?;
        let known = self.known();
        let lost = self
            .0
            .iter()
            .filter(|place| place.found == Found::Nothing && known.contains(place.name));
        let lost: Vec<&Place> = lost.collect();
        let Some(first) = lost.first() else { return Ok(()) };
        let state = match &first.storage {
            Storage::Sqlite { path } if !path.exists() => "missing",
            Storage::Sqlite { .. } => "empty",
            Storage::Postgres { .. } => "missing or has no tables",
        };
        let witnesses = self
            .0
            .iter()
            .filter(|place| place.membership().is_some_and(|own| own.members.contains(first.name)));
        let witnesses: Vec<String> = witnesses.map(|place| described(&place.storage)).collect();
        let others = match lost.len() {
            1 => String::new(),
            more => format!(" (and {} more)", more - 1),
        };
        let options: Vec<String> = lost
            .iter()
            .map(|place| format!("--new-module {}", place.name))
            .collect();
        bail!(
            "{}{others} is {state}, but this installation had it: {} knows {}. It is not made anew, because the other modules refer to what was in it. \
             Restore it from a backup{}; what was written after the backup is lost. If it is to begin anew, without its data: `banyan migrate {}`; \
             to begin with all modules anew, in the demo profile: `banyan seed --reset`",
            described(&first.storage),
            witnesses.first().map_or("another database", String::as_str),
            first.name,
            match first.storage {
                Storage::Sqlite { .. } => " (with its -wal file, if the backup has one)",
                Storage::Postgres { .. } => "",
            },
            options.join(" "),
        );
    }

    fn check_installation(&self) -> anyhow::Result<()> {
        let Some(most) = self.installation() else { return Ok(()) };
        let belongs =
            |place: &&Place, here: bool| place.membership().is_some_and(|own| (own.installation == most) == here);
        let others: Vec<&Place> = self.0.iter().filter(|place| belongs(place, false)).collect();
        let Some(other) = others.first() else { return Ok(()) };
        let beside = self.0.iter().find(|place| belongs(place, true));
        let options: Vec<String> = others.iter().map(|place| format!("--adopt {}", place.name)).collect();
        bail!(
            "{} belongs to another installation ({}) than {} ({most}). Restore the databases of one installation, from backups of the same time; look \
             at data_dir, database.url and modules.{}.database_url. If they do belong together, because they began in processes of their own: \
             `banyan migrate {}`",
            described(&other.storage),
            other.membership().map_or(most, |own| own.installation),
            beside.map_or_else(|| "the others".to_owned(), |place| described(&place.storage)),
            other.name,
            options.join(" "),
        );
    }

    /// The databases that another remembers to have been newer: each with that witness and its memory.
    fn older(&self) -> Vec<(&Place, &Place, i64)> {
        let members = || self.0.iter().filter(|place| place.membership().is_some());
        let remembered = |place: &Place, name: &str| {
            let marks = place.membership().and_then(|own| own.marks.as_ref());
            marks.and_then(|marks| marks.get(name)).copied().unwrap_or(0)
        };
        members()
            .filter_map(|place| {
                let others = members().filter(|other| other.name != place.name);
                let (newest, witness) = others
                    .map(|other| (remembered(other, place.name), other))
                    .max_by_key(|(mark, _)| *mark)?;
                (newest > place.mark()).then_some((place, witness, newest))
            })
            .collect()
    }

    /// # Errors
    /// A database is older than another remembers it: it was restored from an older backup. With what to do.
    pub async fn check_age(&self) -> anyhow::Result<()> {
        let mut older = Vec::new();
        for (place, witness, newest) in self.older() {
            // Another instance may have advanced the marks while they were read, and this one was read before the witness.
            let again = installation::look(&place.storage, place.name).await.map_err(refused)?;
            let again = Place {
                name: place.name,
                storage: place.storage.clone(),
                found: again,
            };
            if again.mark() < newest {
                older.push((again, witness, newest));
            }
        }
        let Some((first, witness, newest)) = older.first() else {
            return Ok(());
        };
        let others = match older.len() {
            1 => String::new(),
            more => format!(" (and {} more)", more - 1),
        };
        let state = match first.mark() {
            0 => "has no mark of its time".to_owned(),
            mark => format!("is of {}", Timestamp::from_ms(mark)),
        };
        let options: Vec<String> = older
            .iter()
            .map(|(place, ..)| format!("--accept-older {}", place.name))
            .collect();
        bail!(
            "{}{others} {state}, but {} remembers it as of {}: it was restored from an older backup than the others, or they are from newer ones. \
             Restore all databases from backups of the same time. If it is to be used all the same, and what it lost is lost: `banyan migrate {}`",
            described(&first.storage),
            described(&witness.storage),
            Timestamp::from_ms(*newest),
            options.join(" "),
        );
    }

    /// The own marks of the databases.
    pub fn own_marks(&self) -> Marks {
        let marks = self.0.iter().map(|place| (place.name.to_owned(), place.mark()));
        marks.filter(|(_, mark)| *mark > 0).collect()
    }

    /// Lets these databases, which are older than others remember, count as being of that time.
    ///
    /// # Errors
    /// One is not a database of this process, or is not older.
    pub async fn accept_older(&mut self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            self.find(name, "--accept-older")?;
            let older = self.older().into_iter().find(|(place, ..)| place.name == *name);
            let Some(newest) = older.map(|(_, _, newest)| newest) else {
                bail!("--accept-older {name}: no other database remembers a newer one");
            };
            let place = self.find(name, "--accept-older")?;
            let connection = place.connect().await?;
            marks::set(&connection, name, Some(newest)).await.map_err(refused)?;
            connection.close().await;
            if let Found::Member(own) = &mut place.found {
                own.marks.get_or_insert_default().insert(name.clone(), newest);
            }
            tracing::warn!(module = name, "a database that is older than the others was accepted");
        }
        Ok(())
    }

    /// Lets these databases and the others forget each other's marks: they were written in different installations, or by a database that is gone.
    async fn forget_marks(&mut self, names: &[String]) -> anyhow::Result<()> {
        for place in &mut self.0 {
            let is_named = names.iter().any(|name| name == place.name);
            let Found::Member(own) = &mut place.found else { continue };
            let Some(remembered) = &mut own.marks else { continue };
            let own_name = place.name;
            let forgotten: Vec<String> = remembered
                .keys()
                .filter(|name| *name != own_name && (is_named || names.contains(name)))
                .cloned()
                .collect();
            if forgotten.is_empty() {
                continue;
            }
            for name in &forgotten {
                remembered.remove(name);
            }
            let connection = place.connect().await?;
            for name in &forgotten {
                marks::set(&connection, name, None).await.map_err(refused)?;
            }
            connection.close().await;
        }
        Ok(())
    }

    fn find(&mut self, name: &str, option: &str) -> anyhow::Result<&mut Place> {
        let names: Vec<&str> = self.0.iter().map(|place| place.name).collect();
        let at = names.iter().position(|own| *own == name);
        let at = at.ok_or_else(|| anyhow!("{option} {name}: this process has {}", names.join(", ")))?;
        Ok(&mut self.0[at])
    }

    /// Forgets these databases, which are gone, so that they are made anew.
    ///
    /// # Errors
    /// One is not a database of this process, or is not gone.
    pub async fn begin_anew(&mut self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            let place = self.find(name, "--new-module")?;
            if place.found != Found::Nothing {
                bail!(
                    "--new-module {name}: {} is there, and has tables",
                    described(&place.storage)
                );
            }
        }
        for place in &mut self.0 {
            let Found::Member(own) = &mut place.found else { continue };
            let forgotten: Vec<&String> = names.iter().filter(|name| own.members.remove(*name)).collect();
            if forgotten.is_empty() {
                continue;
            }
            let connection = place.connect().await?;
            for name in forgotten {
                installation::forget(&connection, name).await.map_err(refused)?;
            }
            connection.close().await;
        }
        self.forget_marks(names).await
    }

    /// Makes these databases belong to the installation of the others.
    ///
    /// # Errors
    /// One is not a database of this process, or has no tables.
    pub async fn adopt(&mut self, names: &[String]) -> anyhow::Result<()> {
        let given: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let others = self.0.iter().filter(|place| !given.contains(place.name));
        let others = others.filter_map(Place::membership).map(|own| own.installation);
        let others: BTreeSet<Uuid> = others.collect();
        for name in names {
            let [installation] = others.iter().copied().collect::<Vec<_>>()[..] else {
                bail!(
                    "--adopt {name}: the other databases belong to {} installations, and must belong to one",
                    others.len()
                );
            };
            let place = self.find(name, "--adopt")?;
            let Found::Member(own) = &mut place.found else {
                bail!(
                    "--adopt {name}: {} belongs to no installation",
                    described(&place.storage)
                );
            };
            own.installation = installation;
            let connection = place.connect().await?;
            installation::change(&connection, installation).await.map_err(refused)?;
            connection.close().await;
        }
        self.forget_marks(names).await
    }

    /// Marks every database that has tables as a member, and tells it of all others.
    ///
    /// # Errors
    /// An unreachable database.
    pub async fn join(&mut self) -> anyhow::Result<()> {
        for place in &mut self.0 {
            if place.membership().is_none() {
                place.found = installation::look(&place.storage, place.name).await.map_err(refused)?;
            }
        }
        let mut members: BTreeSet<String> = self.known().into_iter().map(str::to_owned).collect();
        let with_tables = self.0.iter().filter(|place| place.found != Found::Nothing);
        members.extend(with_tables.map(|place| place.name.to_owned()));
        let mut id = self.installation();
        for place in &mut self.0 {
            let is_complete = place
                .membership()
                .is_some_and(|own| own.members.is_superset(&members) && own.marks.is_some());
            if is_complete || place.found == Found::Nothing {
                continue;
            }
            let connection = place.connect().await?;
            let joined = installation::join(&connection, id, &members).await.map_err(refused)?;
            connection.close().await;
            id = id.or(Some(joined));
            let marks = place.membership().and_then(|own| own.marks.clone());
            place.found = Found::Member(Membership {
                installation: joined,
                members: members.clone(),
                marks: Some(marks.unwrap_or_default()),
            });
        }
        // Another process may have marked one first.
        self.check_installation()
    }
}
