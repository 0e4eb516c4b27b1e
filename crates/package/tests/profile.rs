//! Reference data becomes a profile in the package: the same on any machine, and never the data itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use modelyard_core::profile::{Field, MAX_BYTES, Values};
use modelyard_package::{BuildOptions, Built, Error, build};
use modelyard_registry::Store;
use serde_json::{Value, json};

/// A copy of an example with reference data beside it.
struct Folder {
    home: tempfile::TempDir,
    model: PathBuf,
}

impl Folder {
    fn of(example: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("model");
        fs::create_dir(&model).unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(example).join("v1");
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
        }
        Self { home, model }
    }

    fn with(example: &str, name: &str, data: impl AsRef<[u8]>) -> Self {
        let folder = Self::of(example);
        fs::write(folder.model.join(name), data).unwrap();
        folder.describe(&format!("[reference]\ndata = \"{name}\"\n"));
        folder
    }

    fn describe(&self, more: &str) {
        let path = self.model.join("modelyard.toml");
        fs::write(&path, fs::read_to_string(&path).unwrap() + more).unwrap();
    }

    fn build(&self) -> Result<Built, Error> {
        let store = Store::open(self.home.path().join("registry"), self.home.path().join("unpacked")).unwrap();
        build(&self.model, &store, &BuildOptions::default())
    }

    fn refused(&self) -> String {
        let error = self.build().unwrap_err();
        assert!(matches!(error, Error::Reference { .. }), "{error}");
        error.to_string()
    }
}

fn traffic(example: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(example).join("traffic.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The rows of recorded traffic as a table with these columns first.
fn table(rows: &[Value], first: &[&str]) -> String {
    let cells = |row: &Value| -> BTreeMap<String, String> {
        let mut cells = BTreeMap::new();
        for input in row["request"]["inputs"].as_array().unwrap() {
            let (name, data) = (input["name"].as_str().unwrap(), input["data"].as_array().unwrap());
            for (at, value) in data.iter().enumerate() {
                let title = if data.len() == 1 { name.to_owned() } else { format!("{name}[{at}]") };
                cells.insert(title, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
        }
        cells
    };
    let mut titles: Vec<String> = cells(&rows[0]).into_keys().collect();
    titles.sort_by_key(|title| (!first.contains(&title.as_str()), title.clone()));
    let mut text = titles.join(",") + "\n";
    for row in rows {
        let cells = cells(row);
        text += &(titles.iter().map(|title| cells[title].clone()).collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

fn names(built: &Built) -> Vec<String> {
    built.package.profile.as_ref().unwrap().fields.iter().map(Field::to_string).collect()
}

#[test]
fn every_form_of_the_same_rows_gives_the_same_package() {
    let rows = traffic("wine");
    let list = serde_json::to_string_pretty(&rows).unwrap();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let plain: Vec<Value> =
        rows.iter().map(|row| json!({"inputs": {"features": [row["request"]["inputs"][0]["data"]]}})).collect();
    let plain = serde_json::to_string(&plain).unwrap();
    let build = |name: &str, data: &str| Folder::with("wine", name, data).build().unwrap();
    let built = build("reference.json", &list);
    let profile = built.package.profile.as_ref().unwrap();
    assert_eq!((profile.rows, profile.fields.len()), (rows.len() as u64, 13));
    assert_eq!(names(&built)[..2], ["input features[0]", "input features[1]"]);
    for (name, data) in [
        ("rows.jsonl", lines.as_str()),
        ("plain.json", &plain),
        ("table.csv", &table(&rows, &[])),
        ("other.csv", &table(&rows, &["features[7]", "features[2]"]).replace('\n', "\r\n")),
    ] {
        let other = build(name, data);
        assert_eq!(other.package.profile.as_ref(), Some(profile), "{name}");
        assert_eq!(other.digest, built.digest, "{name}: neither the data nor its name is in the package");
    }
    let first = &profile.fields[0];
    let Values::Numbers { counts, .. } = &first.values else { panic!("numbers") };
    assert!(counts.len() == 10 && counts.iter().all(|count| count.abs_diff(rows.len() as u64 / 10) < 4), "{first:?}");
    assert!(built.warnings.iter().any(|warning| warning.contains("rows: chance alone")), "{:?}", built.warnings);
    assert!(serde_json::to_vec(&profile).unwrap().len() <= MAX_BYTES);
}

#[test]
fn the_profile_changes_the_digest_and_nothing_else() {
    let without = Folder::of("wine").build().unwrap();
    assert_eq!(without.package.profile, None);
    let with = Folder::with("wine", "reference.csv", table(&traffic("wine"), &[])).build().unwrap();
    assert_ne!(with.digest, without.digest);
    assert_eq!(with.package.files, without.package.files, "the data is not packaged");
    let mut bare = with.package.clone();
    bare.profile = None;
    assert_eq!(bare, without.package);
}

#[test]
fn a_package_in_the_registry_has_its_profile() {
    let folder = Folder::with("diabetes", "reference.csv", table(&traffic("diabetes"), &[]));
    let built = folder.build().unwrap();
    let store = Store::open(folder.home.path().join("registry"), folder.home.path().join("unpacked")).unwrap();
    assert_eq!(store.package(&built.digest).unwrap().profile, built.package.profile);
    let expected: Vec<String> = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
        .iter()
        .map(|name| format!("input {name}"))
        .collect();
    assert_eq!(names(&built), expected, "in the order of the signature, whatever the columns' is");
    let sex = &built.package.profile.as_ref().unwrap().fields[1];
    let Values::Categories { counts, other: 0 } = &sex.values else { panic!("categories: {sex:?}") };
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn expected_answers_give_a_profile_of_the_outputs() {
    let rows: Vec<Value> = (0..600)
        .map(|n| {
            let features: Vec<f64> = (0..13).map(|at| f64::from(n * 31 % 600) + f64::from(at)).collect();
            json!({"inputs": {"features": [features]}, "outputs": {"label": [n % 3]}, "label": n % 3, "id": format!("r{n}")})
        })
        .collect();
    let built = Folder::with("wine", "reference.json", serde_json::to_vec(&rows).unwrap()).build().unwrap();
    let label = built.package.profile.as_ref().unwrap().fields.last().unwrap().clone();
    assert_eq!((label.to_string().as_str(), label.counts()), ("output label", vec![200, 200, 200, 0, 0]));
    assert!(!built.warnings.iter().any(|warning| warning.contains("chance")), "{:?}", built.warnings);
}

#[test]
fn missing_cells_are_missing_values() {
    let mut text = table(&traffic("wine"), &[]);
    text += &format!("{}\n", [""; 13].join(","));
    text += &format!("{}\n", ["NaN"; 13].join(","));
    let built = Folder::with("wine", "reference.csv", text).build().unwrap();
    assert!(built.package.profile.as_ref().unwrap().fields.iter().all(|field| field.missing == 2));
}

#[test]
fn data_that_does_not_fit_is_refused_with_its_place_and_without_its_values() {
    let good = table(&traffic("wine"), &[]);
    let (header, _) = good.split_once('\n').unwrap();
    let row = |inputs: Value| serde_json::to_string(&json!([{"inputs": inputs}])).unwrap();
    for (name, data, why) in [
        ("r.csv", String::new(), "it is empty"),
        ("r.csv", format!("{header}\n"), "it has no rows"),
        ("r.csv", "a,b\n1,2\n".into(), "names none of the inputs `features`"),
        ("r.csv", good.replace("features[3]", "features[33]"), "has no column `features[3]`"),
        ("r.csv", good.replace("features[3]", "features[4]"), "names `features[4]` twice"),
        ("r.csv", format!("{good}1,2\n"), "has 2 fields where the header names 13"),
        (
            "r.csv",
            format!("{header}\n1,2,3,4,5,6,7,8,9,10,11,12,SECRET\n"),
            "line 2: column `features[9]` holds no FP32",
        ),
        ("r.csv", format!("{header}\n\"1,2\n"), "a quote is never closed"),
        ("r.json", "{}".into(), "a list of rows"),
        ("r.json", "[{".into(), "no JSON list"),
        ("r.json", row(json!({"wine": [[1]]})), "row 1: the model has no input `wine`; it has `features`"),
        ("r.json", row(json!({"features": [[1, 2]]})), "input `features` has 2 values a row, and the model has 13"),
        ("r.json", "[{\"label\": 1}]".into(), "row 1: it has no inputs"),
        ("r.jsonl", "{}\n".into(), "line 1: it has no inputs"),
        ("r.jsonl", "nonsense\n".into(), "line 1 is no JSON"),
        ("r.parquet", "PAR1".into(), "write a .csv, .json or .jsonl file"),
    ] {
        let told = Folder::with("wine", name, &data).refused();
        assert!(told.contains(why) && !told.contains("SECRET"), "{told} does not say {why:?}");
    }
    let folder = Folder::of("wine");
    folder.describe("[reference]\ndata = \"refernce.csv\"\n");
    fs::write(folder.model.join("reference.csv"), good).unwrap();
    let told = folder.build().unwrap_err().to_string();
    assert!(told.contains("there is no file `refernce.csv`; did you mean `reference.csv`?"), "{told}");
    let folder = Folder::of("wine");
    folder.describe("[reference]\nfile = \"x.csv\"\n");
    let told = folder.build().unwrap_err().to_string();
    assert!(told.contains("no key `file`") && told.contains("`data` is missing"), "{told}");
}

#[test]
fn columns_that_are_no_inputs_are_left_out_with_a_word() {
    let good = table(&traffic("wine"), &[]);
    let more: String = good
        .lines()
        .enumerate()
        .map(|(n, line)| format!("{line},{}\n", if n == 0 { "cultivar" } else { "7" }))
        .collect();
    let built = Folder::with("wine", "reference.csv", more).build().unwrap();
    let said = built.warnings.iter().any(|warning| warning.contains("column `cultivar` is neither input nor output"));
    assert!(said && names(&built).len() == 13, "{:?}", built.warnings);
}

#[test]
fn a_program_s_reference_is_read_as_it_looks_and_not_packaged() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("serve.py"), "#!/usr/bin/env python3\n").unwrap();
    fs::write(model.join("reference.csv"), "age,colour\n41,red\n17,blue\n").unwrap();
    let description = "[model]\nname = \"program\"\nversion = \"1\"\n[runtime]\nkind = \"command\"\ncommand = [\"./serve.py\"]\n\
         health = \"/\"\n[reference]\ndata = \"reference.csv\"\n";
    fs::write(model.join("modelyard.toml"), description).unwrap();
    let built = Folder { home, model }.build().unwrap();
    assert_eq!(names(&built), ["input age", "input colour"]);
    assert_eq!(built.package.files.keys().collect::<Vec<_>>(), ["serve.py"]);
}
