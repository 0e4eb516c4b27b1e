//! The gRPC face: inference, health and reflection, on the same port as REST.

mod convert;
mod health;
mod service;

#[cfg(fuzzing)]
pub(crate) use convert::question;

use std::fmt;
use std::sync::{Arc, OnceLock};

use hyper::body::Incoming;
use hyper::{Request, Response};
use tonic::service::Routes;
use tower::Service;

use crate::generated::DESCRIPTORS;
use crate::generated::grpc_inference_service_server::GrpcInferenceServiceServer;
use crate::http::Body;
use crate::server::Shared;

/// The gRPC services of one I/O thread.
#[derive(Clone)]
pub(crate) struct Grpc {
    inference: GrpcInferenceServiceServer<service::Inference>,
    shared: Arc<Shared>,
    /// Health and reflection, made when they are first asked: most servers never are, and start sooner without.
    others: Arc<OnceLock<Routes>>,
}

impl fmt::Debug for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grpc")
    }
}

impl Grpc {
    pub(crate) fn new(thread: usize, shared: Arc<Shared>) -> Self {
        let inference = GrpcInferenceServiceServer::new(service::Inference { thread, shared: shared.clone() });
        let inference = inference.max_decoding_message_size(shared.max_body).max_encoding_message_size(usize::MAX);
        Self { inference, shared, others: Arc::default() }
    }

    /// Answers a gRPC call.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let is_inference = request.uri().path().starts_with("/inference.GRPCInferenceService/");
        let answered = match is_inference {
            true => {
                let mut service = self.inference.clone();
                service.call(request).await
            }
            false => {
                let mut service = self.others.get_or_init(|| others(&self.shared)).clone();
                service.call(request.map(tonic::body::Body::new)).await
            }
        };
        match answered {
            Ok(response) => response.map(Body::Grpc),
            Err(never) => match never {},
        }
    }
}

fn others(shared: &Arc<Shared>) -> Routes {
    let routes = Routes::new(health::service(shared));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "gRPC reflection is off");
            routes
        }
    }
}
