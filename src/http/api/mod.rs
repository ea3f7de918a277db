//! The HTTP API: JSON and server-sent events on the port of gRPC.
//!
//! A request is translated into a gRPC request, which passes the middleware and the handlers of gRPC in this process:
//! that middleware handles credentials, limits, deadlines, metrics and logs. No method has code of its own here.

mod call;
mod comments;
mod errors;
mod event;
mod events;
mod form;
mod frames;
mod message;
mod openapi;
mod origins;
mod query;
mod reader;
mod request;
mod response;
mod routes;
mod schema;
mod schemas;
mod welcome;
mod writer;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{
    HeaderValue, Method, Request, Response, Version,
    header::{CONTENT_TYPE, ORIGIN},
    request::Parts,
};
use tonic::{Status, body::Body};
use tower::Service;

pub use self::{
    form::Form,
    origins::{Hosts, Origins, PageRules},
};

use self::{
    errors::Refusal,
    events::NO_BUFFERING,
    request::ApiRequest,
    response::{Accepted, Answer, no_content},
    routes::{Endpoint, Found, OPENAPI, Routes},
    schema::{PACKAGE, Schema},
};
use crate::grpc::RequestService;

/// Prefix of the content types of gRPC and gRPC-Web.
const GRPC: &[u8] = b"application/grpc";

/// Prefix of the content types of gRPC-Web.
const GRPC_WEB: &[u8] = b"application/grpc-web";

/// Prefixes of the paths of gRPC methods.
const RPC: [&str; 2] = ["/jobtrack.", "/grpc."];

/// Returns the form that the message with this name, such as `Job`, has in answers.
pub fn form(message: &str) -> Form {
    let descriptor = Schema::of_answers().get_message_by_name(&format!("{PACKAGE}.{message}"));
    Form::new(descriptor.expect("a message of the protos"))
}

/// The settings of the HTTP API.
#[derive(Clone, Debug)]
pub struct Options {
    /// The API is served. Otherwise its paths are answered with an error.
    pub is_on: bool,
    /// The server uses TLS.
    pub has_tls: bool,
    /// Checks of requests that may come from web pages.
    pub rules: PageRules,
}

/// Service that answers requests of the HTTP API by calls of `grpc`, and passes gRPC requests through.
#[derive(Clone)]
pub struct Api<S> {
    grpc: S,
    shared: Arc<Shared>,
}

/// State that all requests share.
struct Shared {
    options: Options,
    schema: Schema,
    routes: Routes,
    /// The `OpenAPI` description and its compressed form, after the first request for it.
    description: OnceLock<[Bytes; 2]>,
}

impl<S: RequestService> Api<S> {
    /// Returns the API in front of `grpc`.
    pub fn new(grpc: S, options: Options) -> Self {
        let schema = Schema::new();
        let routes = Routes::new(&schema);
        Self { grpc, shared: Arc::new(Shared { options, schema, routes, description: OnceLock::new() }) }
    }
}

impl<S: RequestService> Service<Request<Body>> for Api<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.grpc.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // A fast path for most requests: gRPC from programs. The API must not slow them down.
        if is_plain_grpc(&request) && request.version() == Version::HTTP_2 && !request.headers().contains_key(ORIGIN) {
            return Either::Left(self.grpc.call(request));
        }
        let (grpc, shared) = (self.grpc.clone(), self.shared.clone());
        Either::Right(Box::pin(async move { Ok(shared.answer(grpc, request).await) }))
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC))
}

/// Returns whether a request is gRPC, and not gRPC-Web.
fn is_plain_grpc(request: &Request<Body>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(GRPC) && !kind.starts_with(GRPC_WEB)
}

impl Shared {
    /// Answers a request that may come from a web page, after checks of its host and its origin.
    async fn answer<S: RequestService>(self: Arc<Self>, grpc: S, request: Request<Body>) -> Response<Body> {
        let origin = request.headers().get(ORIGIN).cloned();
        let accepted = Accepted::new(request.headers(), request.method() == Method::HEAD);
        let response = match self.options.rules.check(&request) {
            Ok(()) => self.route(grpc, request, accepted).await,
            Err(refusal) => Err(refusal.into()),
        };
        let mut response = response.unwrap_or_else(|answer| answer.into_response(accepted));
        self.options.rules.allow(origin.as_ref(), response.headers_mut());
        response
    }

    /// Answers a request by its kind: preflight, gRPC, the page at `/`, the `OpenAPI` description or the API.
    async fn route<S: RequestService>(
        &self,
        mut grpc: S,
        request: Request<Body>,
        accepted: Accepted,
    ) -> Result<Response<Body>, Answer> {
        if let Some(headers) = origins::preflight(&request) {
            return Ok(no_content(headers));
        }
        if is_grpc(&request) {
            if request.version() < Version::HTTP_2 && is_plain_grpc(&request) {
                return Err(Refusal::unsupported_body("gRPC needs HTTP/2; HTTP/1.1 is for gRPC-Web and JSON").into());
            }
            let Ok(mut response) = grpc.call(request).await;
            // Makes nginx pass on each message at once.
            response.headers_mut().extend([NO_BUFFERING]);
            return Ok(response);
        }
        let (path, is_read) = (request.uri().path(), matches!(*request.method(), Method::GET | Method::HEAD));
        match path {
            "/" if is_read => Ok(welcome::page(request.headers(), &self.base(&request), self.options.is_on, accepted)),
            path if RPC.iter().any(|start| path.starts_with(start)) => {
                let message = "this path takes gRPC and gRPC-Web: the content-type must be application/grpc or \
                               application/grpc-web";
                Err(Refusal::unsupported_body(message).into())
            }
            _ if !self.options.is_on => Err(Refusal::api_is_off().into()),
            OPENAPI if is_read => Ok(self.description().into_response(accepted)),
            "/" | OPENAPI => Err(Refusal::wrong_method("GET, HEAD".to_owned()).into()),
            _ => self.find(grpc, request, accepted).await,
        }
    }

    /// Finds the route of a request and calls its endpoint.
    async fn find<S: RequestService>(
        &self,
        grpc: S,
        request: Request<Body>,
        accepted: Accepted,
    ) -> Result<Response<Body>, Answer> {
        let (parts, body) = request.into_parts();
        match self.routes.find(&parts.method, parts.uri.path()) {
            Found::Endpoint(endpoint, id) => self.call(grpc, endpoint, id, parts, body, accepted).await,
            Found::OtherMethods(allow) => Err(Refusal::wrong_method(allow).into()),
            Found::Nothing => Err(Refusal::unknown_path(&self.routes.list()).into()),
        }
    }

    /// Returns the `OpenAPI` description.
    fn description(&self) -> Answer {
        let [json, compressed] = self.description.get_or_init(|| {
            let json = Bytes::from(format!("{:#}\n", openapi::description(&self.schema, &self.routes)));
            let compressed = response::compress(&json);
            [json, compressed]
        });
        Answer::ok(json.clone()).with_compressed(compressed.clone())
    }

    /// Returns the URL of this server that the request was sent to, without the path.
    fn base(&self, request: &Request<Body>) -> String {
        let scheme = if self.options.has_tls { "https" } else { "http" };
        let host = origins::host(request).map(|host| host.to_string());
        format!("{scheme}://{}", host.as_deref().unwrap_or("localhost"))
    }

    /// Answers a request by a call of `endpoint`. An error of the call becomes an `Err` with its answer.
    async fn call<S: RequestService>(
        &self,
        mut grpc: S,
        endpoint: &Arc<Endpoint>,
        id: Option<String>,
        mut parts: Parts,
        body: Body,
        accepted: Accepted,
    ) -> Result<Response<Body>, Answer> {
        let request = ApiRequest::new(endpoint, id, &parts)?;
        request::take_access_token(&mut parts);
        let token = request.resume_token.clone();
        let opened = call::begin(&mut grpc, &endpoint.rpc_path, parts, request::body(request, body)).await;
        let response = if endpoint.is_stream {
            events::response(endpoint, opened, token.as_deref(), accepted).await
        } else {
            answered(&endpoint.form, opened).await.map(|json| Answer::ok(json).into_response(accepted))
        };
        response.map_err(|status| errors::of_status(&self.schema, &status))
    }
}

/// Returns the answer of a unary call as JSON.
async fn answered(form: &Arc<Form>, opened: Result<Response<Body>, Status>) -> Result<Bytes, Status> {
    let message = call::message(opened?).await?;
    Ok(call::json(form, message).await)
}
