//! The six methods of the protocol.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use crate::batch::{Slice, rows};
use crate::generated::grpc_inference_service_server::GrpcInferenceService;
use crate::generated::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};
use crate::http::{self, received};
use crate::refusal::{Kind, Refusal};
use crate::server::{Loaded, Shared};
use crate::stats::Protocol;

/// The inference service of one I/O thread.
#[derive(Clone, Debug)]
pub(super) struct Inference {
    pub(super) thread: usize,
    pub(super) shared: Arc<Shared>,
}

fn status(refusal: Refusal) -> Status {
    match refusal.kind {
        Kind::Invalid | Kind::Unsupported => Status::invalid_argument(refusal.message),
        Kind::NotFound => Status::not_found(refusal.message),
        Kind::TooLarge => Status::resource_exhausted(refusal.message),
        Kind::TooSlow | Kind::EngineTooSlow => Status::deadline_exceeded(refusal.message),
        Kind::Unavailable => Status::unavailable(refusal.message),
        Kind::Engine => Status::internal(refusal.message),
    }
}

impl Inference {
    fn named(&self, name: &str, version: &str) -> Result<&Loaded, Refusal> {
        let loaded = self.shared.loaded()?;
        loaded.model.accepts(name, Some(version))?;
        Ok(loaded)
    }

    async fn infer(&self, request: ModelInferRequest) -> Result<(ModelInferResponse, Slice, usize), Refusal> {
        let loaded = self.named(&request.model_name, &request.model_version)?;
        let raw = !request.raw_input_contents.is_empty();
        let question = convert::question(&loaded.model, request)?;
        let rows = rows(&question.inputs).unwrap_or(1);
        let reply = loaded.ask(self.thread, question.inputs)?;
        let slice = received(reply.await)?;
        Ok((convert::answer(&loaded.model, question.wanted, &slice, raw), slice, rows))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: self.shared.health.is_live() }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.shared.health.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let request = request.into_inner();
        let ready = match self.named(&request.name, &request.version) {
            Ok(_) => self.shared.health.is_ready(),
            Err(refusal) if refusal.kind == Kind::Unavailable => false,
            Err(refusal) => return Err(status(refusal)),
        };
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: http::SERVER.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: http::EXTENSIONS.iter().map(|&name| name.to_owned()).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let request = request.into_inner();
        let loaded = self.named(&request.name, &request.version).map_err(status)?;
        Ok(Response::new(convert::metadata(&loaded.model)))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let open = self.shared.counts[self.thread].begin(Protocol::Grpc);
        match self.infer(request.into_inner()).await {
            Ok((response, slice, rows)) => {
                open.end(200, Some((&slice, rows)));
                Ok(Response::new(response))
            }
            Err(refusal) => {
                open.end(http::status(refusal.kind).as_u16(), None);
                Err(status(refusal))
            }
        }
    }
}
