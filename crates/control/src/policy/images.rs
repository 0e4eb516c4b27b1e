//! Which container image of a package an environment runs.
//!
//! Promises: where a policy asks where packages come from, an image that was pushed or loaded runs only under a signature: whoever may push to a model's
//! repository cannot put another program in the place of a package that was let in.
//! Absent on purpose: looking into an image. One that was made here is what this Modelyard makes of the package.

use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_registry::distribution::Distribution;
use modelyard_registry::trust::signatures;

use super::{Policy, keys};

/// What there is for an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageChoice {
    /// The registry has no image of the package.
    Absent,
    /// It has some, and none of them may run there: why.
    Refused(String),
    /// This one, by the digest of its manifest.
    Taken(Digest),
}

impl Policy {
    /// The image of a package that runs under this policy.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn image(
        &self,
        distribution: &Distribution,
        digest: &Digest,
        package: &Package,
    ) -> Result<ImageChoice, modelyard_registry::Error> {
        let images = distribution.images_of(&package.name, &package.version, digest)?;
        let Some(first) = images.first() else { return Ok(ImageChoice::Absent) };
        if !self.asks_for_origin() {
            return Ok(ImageChoice::Taken(first.digest));
        }
        let signers = self.provenance.iter().flat_map(|origin| &origin.keys);
        let signers = signers.chain(self.promoted.iter().flat_map(|promoted| &promoted.keys));
        let signers: Vec<String> = self.signed_by.iter().chain(signers).cloned().collect();
        let keys = match keys(&signers) {
            Ok(keys) => keys,
            Err(why) => return Ok(ImageChoice::Refused(why)),
        };
        let is_signed = |image: &Digest| {
            let found = signatures(distribution, &package.name, image, &keys);
            found.is_ok_and(|(found, _)| found.iter().any(|signature| signature.key.is_some()))
        };
        let taken = images.iter().find(|image| image.made_here || is_signed(&image.digest));
        Ok(taken.map_or_else(
            || {
                let more = match images.len() {
                    1 => String::new(),
                    count => format!(", nor one of {} others", count - 1),
                };
                let first = first.digest;
                ImageChoice::Refused(format!(
                    "its container image {first} was not made here, and is signed by none of the {} keys{more}",
                    keys.len()
                ))
            },
            |image| ImageChoice::Taken(image.digest),
        ))
    }

    /// Whether it matters where packages come from.
    const fn asks_for_origin(&self) -> bool {
        !self.signed_by.is_empty()
            || self.provenance.is_some()
            || self.promoted.is_some()
            || self.bases.is_some()
            || !self.packages_from.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use modelyard_core::{ModelName, Version};
    use modelyard_registry::Store;
    use modelyard_registry::catalog::FromPattern;
    use modelyard_registry::manifest::{
        Descriptor, FILEPATH, IMAGE_CONFIG, MANIFEST, MODEL, MODEL_CONFIG, Manifest, WEIGHT_CONFIG,
    };
    use modelyard_registry::trust::{SigningKey, sign};
    use serde_json::json;

    use super::*;

    fn part(store: &Store, bytes: &[u8], kind: &str) -> Descriptor {
        let blob = store.blobs().put(bytes).unwrap().blob;
        Descriptor::new(kind, blob.digest, blob.size_bytes)
    }

    fn package(store: &Store, wine: &ModelName, one: &Version) -> Digest {
        let document = json!({
            "format_version": 1, "name": wine, "version": one, "files": {},
            "runtime": {"kind": "onnx", "model": "model.onnx"}, "signature": {"inputs": [], "outputs": []},
        });
        let document = part(store, document.to_string().as_bytes(), WEIGHT_CONFIG).noted(FILEPATH, "modelyard.json");
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: Some(MODEL.to_owned()),
            config: part(store, b"{}", MODEL_CONFIG),
            layers: vec![document],
            annotations: std::collections::BTreeMap::new(),
        };
        store.add(wine, one, &manifest).unwrap()
    }

    /// An image of a package that says this of itself: its manifest, and its parts, which are stored.
    fn image(store: &Store, package: &Digest, says: &str) -> (String, Vec<Descriptor>) {
        let parts = vec![part(store, json!({ "says": says }).to_string().as_bytes(), IMAGE_CONFIG)];
        let subject = Descriptor::new(MANIFEST, *package, store.blobs().size(package).unwrap().unwrap());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": [], "subject": subject,
        });
        (manifest.to_string(), parts)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_pushed_runs_under_a_signature_or_where_nobody_asks() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path().join("registry"), home.path().join("unpacked")).unwrap();
        let (wine, one) = (ModelName::new("wine").unwrap(), Version::new("1").unwrap());
        let digest = package(&store, &wine, &one);
        let registry = Distribution::open(&home.path().join("registry"), store.clone()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = registry.router();
        tokio::spawn(async move { axum::serve(listener, router).await });

        let document = store.package(&digest).unwrap();
        let (key, _) = SigningKey::generate(None).unwrap();
        let (other, _) = SigningKey::generate(None).unwrap();
        let signed = Policy { signed_by: vec![key.public().to_pem()], ..Policy::default() };
        let from = vec![FromPattern::try_from("built-here".to_owned()).unwrap()];
        let anywhere = Policy { samples: 1, ..Policy::default() };
        let from_here = Policy { packages_from: from, ..Policy::default() };
        let choice = |policy: &Policy| policy.image(&registry, &digest, &document).unwrap();
        for policy in [&signed, &anywhere, &from_here] {
            assert_eq!(choice(policy), ImageChoice::Absent);
        }

        let (pushed, parts) = image(&store, &digest, "pushed");
        let config = store.blobs().read(&parts[0].digest, 1 << 20).unwrap();
        let pushed_digest = tokio::task::spawn_blocking(move || {
            let upload = format!("http://{address}/v2/wine/blobs/uploads/?digest={}", parts[0].digest);
            let post = ureq::post(upload).header("content-type", "application/octet-stream");
            assert_eq!(post.send(&config[..]).unwrap().status(), 201);
            let put = ureq::put(format!("http://{address}/v2/wine/manifests/1-image")).header("content-type", MANIFEST);
            let answer = put.send(&pushed).unwrap();
            answer.headers()["docker-content-digest"].to_str().unwrap().parse::<Digest>().unwrap()
        });
        let pushed = pushed_digest.await.unwrap();
        assert_eq!(choice(&anywhere), ImageChoice::Taken(pushed));
        sign(&registry, &wine, &pushed, "wine", &other).unwrap();
        for policy in [&signed, &from_here] {
            let ImageChoice::Refused(why) = choice(policy) else { panic!("{:?}", choice(policy)) };
            assert!(why.contains(&pushed.to_string()) && why.contains("was not made here"), "{why}");
        }

        // One that was made here is taken, also when the tag is put on another one again.
        let (made, parts) = image(&store, &digest, "made here");
        registry.keep_image(&wine, &one, &digest, made.as_bytes(), &parts).unwrap();
        let ImageChoice::Taken(made) = choice(&signed) else { panic!("{:?}", choice(&signed)) };
        assert_ne!(made, pushed);
        let bytes = String::from_utf8(store.blobs().read(&pushed, 1 << 20).unwrap()).unwrap();
        let again = move || {
            let put = ureq::put(format!("http://{address}/v2/wine/manifests/1-image")).header("content-type", MANIFEST);
            put.send(&bytes).unwrap().status()
        };
        assert_eq!(tokio::task::spawn_blocking(again).await.unwrap(), 201);
        assert_eq!((choice(&signed), choice(&from_here)), (ImageChoice::Taken(made), ImageChoice::Taken(made)));
        assert_eq!(choice(&anywhere), ImageChoice::Taken(pushed), "where nobody asks, the tag decides");

        // Under a signature that counts, what was pushed may run.
        sign(&registry, &wine, &pushed, "wine", &key).unwrap();
        assert_eq!((choice(&signed), choice(&from_here)), (ImageChoice::Taken(pushed), ImageChoice::Taken(made)));
    }
}
