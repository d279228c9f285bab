//! The store against real files.

use std::{collections::BTreeMap, path::PathBuf};

use proptest::prelude::*;
use xylem_store::{OpenError, Schema, Store, StoreError, Table};

const NAMES: Table<String> = Table::new("names");
const COUNTS: Table<u64> = Table::new("counts");

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("below").join("state.redb");
    Place { _folder: folder, path }
}

fn open(place: &Place) -> Result<Store, OpenError> {
    Store::open(&place.path, Schema::new("test", 1))
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let place = place();
    let store = open(&place).unwrap();
    store
        .transact_blocking(|tx| {
            tx.put(NAMES, "a/1", &"one".to_owned())?;
            tx.put(NAMES, "a/2", &"two".to_owned())?;
            tx.put(NAMES, "b/1", &"other".to_owned())?;
            tx.put(COUNTS, "a", &2)
        })
        .unwrap();
    drop(store);

    let store = open(&place).unwrap();
    let (names, count, missing) = store
        .read_blocking::<_, StoreError>(|view| {
            Ok((view.scan(NAMES, "a/")?, view.get(COUNTS, "a")?, view.get(COUNTS, "b")?))
        })
        .unwrap();
    assert_eq!(names, [("a/1".to_owned(), "one".to_owned()), ("a/2".to_owned(), "two".to_owned())]);
    assert_eq!((count, missing), (Some(2), None));
}

#[test]
fn a_failing_transaction_leaves_no_table_changed() {
    #[derive(Debug, thiserror::Error)]
    enum Refused {
        #[error("no")]
        No,
        #[error(transparent)]
        Store(#[from] StoreError),
    }
    let store = open(&place()).unwrap();
    let refused = store.transact_blocking(|tx| {
        tx.put(NAMES, "a", &"one".to_owned())?;
        tx.put(COUNTS, "a", &1)?;
        assert_eq!(tx.get(COUNTS, "a")?, Some(1), "a transaction sees its own writes");
        Err::<(), _>(Refused::No)
    });
    assert!(matches!(refused, Err(Refused::No)));
    let left = store
        .read_blocking::<_, StoreError>(|view| Ok((view.scan(NAMES, "")?, view.scan(COUNTS, "")?)))
        .unwrap();
    assert_eq!(left, (Vec::new(), Vec::new()));
}

#[test]
fn a_locked_store_is_refused_by_name() {
    let place = place();
    let _held = open(&place).unwrap();
    let error = open(&place).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("state.redb"), "{error}");
}

#[test]
fn another_schema_is_refused_and_left_alone() {
    let place = place();
    drop(open(&place).unwrap());
    for other in [Schema::new("test", 2), Schema::new("elsewhere", 1)] {
        let error = Store::open(&place.path, other).unwrap_err();
        assert!(matches!(error, OpenError::OtherSchema { .. }), "{error:?}");
    }
    open(&place).unwrap();
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let place = place();
    std::fs::create_dir_all(place.path.parent().unwrap()).unwrap();
    let content = b"PNG, or anything else that is not ours".repeat(200);
    std::fs::write(&place.path, &content).unwrap();
    let error = open(&place).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::read(&place.path).unwrap(), content);
}

#[test]
fn a_value_of_another_shape_is_named() {
    let store = open(&place()).unwrap();
    store.transact_blocking(|tx| tx.put(NAMES, "a", &"not a number".to_owned())).unwrap();
    let as_numbers: Table<u64> = Table::new("names");
    let error = store.read_blocking(|view| view.get(as_numbers, "a")).unwrap_err();
    assert!(matches!(&error, StoreError::Decode { table: "names", key, .. } if key == "a"));
}

#[tokio::test]
async fn transactions_of_many_tasks_do_not_lose_updates() {
    let place = place();
    let store = open(&place).unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .transact(|tx| {
                        let count = tx.get(COUNTS, "shared")?.unwrap_or(0);
                        tx.put(COUNTS, "shared", &(count + 1))
                    })
                    .await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let count = store.read(|view| view.get(COUNTS, "shared")).await.unwrap();
    assert_eq!(count, Some(20));
}

#[derive(Clone, Debug)]
enum Step {
    Put(String, u64),
    Delete(String),
    Refuse(String),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = "[a-c]/[0-9]";
    prop_oneof![
        4 => (key, any::<u64>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key.prop_map(Step::Delete),
        1 => key.prop_map(Step::Refuse),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_store_is_an_ordered_map(steps in prop::collection::vec(step(), 0..24)) {
        let place = place();
        let mut store = open(&place).unwrap();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    store.transact_blocking(|tx| tx.put(COUNTS, &key, &value)).unwrap();
                    model.insert(key, value);
                }
                Step::Delete(key) => {
                    let existed = store.transact_blocking(|tx| tx.delete(COUNTS, &key)).unwrap();
                    prop_assert_eq!(existed, model.remove(&key).is_some());
                }
                Step::Refuse(key) => {
                    let refused = store.transact_blocking(|tx| {
                        tx.put(COUNTS, &key, &0)?;
                        Err::<(), _>(StoreError::ShuttingDown)
                    });
                    prop_assert!(refused.is_err());
                }
                Step::Reopen => {
                    drop(store);
                    store = open(&place).unwrap();
                }
            }
            for prefix in ["", "a/", "b", "c/5", "d"] {
                let rows = store.read_blocking(|view| view.scan(COUNTS, prefix)).unwrap();
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(key, _)| key.starts_with(prefix))
                    .map(|(key, value)| (key.clone(), *value))
                    .collect();
                prop_assert_eq!(rows, expected);
            }
        }
    }
}
