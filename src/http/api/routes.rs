//! The routes of the HTTP API: paths, and the gRPC methods that they call.

use std::sync::Arc;

use http::{Method, uri::PathAndQuery};
use percent_encoding::percent_decode_str;
use prost_reflect::MessageDescriptor;

use super::{
    form::{Field, Form},
    schema::Schema,
};

/// Path of the `OpenAPI` description.
pub const OPENAPI: &str = "/v1/openapi.json";

/// Placeholder of a job id in a path.
const ID: &str = "{id}";

/// A path, with the method that it calls.
#[derive(Debug)]
pub struct Route {
    /// HTTP method.
    pub verb: Method,
    /// Path, in which `{id}` stands for the id of a job.
    pub path: &'static str,
    /// gRPC method, such as `JobService/GetJob`.
    pub rpc: &'static str,
    /// Field of the request whose fields are query parameters, too.
    pub flattened: Option<&'static str>,
}

impl Route {
    /// Returns whether the path has the id of a job.
    pub fn has_id(&self) -> bool {
        self.path.contains(ID)
    }
}

const fn route(verb: Method, path: &'static str, rpc: &'static str) -> Route {
    Route { verb, path, rpc, flattened: None }
}

const fn filtered(path: &'static str, rpc: &'static str) -> Route {
    Route { verb: Method::GET, path, rpc, flattened: Some("filter") }
}

/// All routes. A route whose method is missing in the descriptors is not served.
static ROUTES: &[Route] = &[
    route(Method::POST, "/v1/jobs", "JobService/CreateJob"),
    filtered("/v1/jobs", "JobService/ListJobs"),
    route(Method::GET, "/v1/jobs:batchGet", "JobService/BatchGetJobs"),
    route(Method::POST, "/v1/jobs:purge", "AdminService/PurgeJobs"),
    route(Method::GET, "/v1/jobs/{id}", "JobService/GetJob"),
    route(Method::DELETE, "/v1/jobs/{id}", "JobService/DeleteJob"),
    route(Method::POST, "/v1/jobs/{id}:start", "JobService/StartAttempt"),
    route(Method::POST, "/v1/jobs/{id}:progress", "JobService/UpdateProgress"),
    route(Method::POST, "/v1/jobs/{id}:complete", "JobService/CompleteJob"),
    route(Method::POST, "/v1/jobs/{id}:fail", "JobService/FailJob"),
    route(Method::POST, "/v1/jobs/{id}:cancel", "JobService/CancelJob"),
    route(Method::POST, "/v1/jobs/{id}:confirmCancel", "JobService/ConfirmCancel"),
    route(Method::POST, "/v1/jobs/{id}:watchToken", "JobService/CreateWatchToken"),
    route(Method::GET, "/v1/jobs/{id}/events", "JobService/WatchJob"),
    filtered("/v1/events", "JobService/WatchJobs"),
    route(Method::GET, "/v1/stats", "AdminService/GetStats"),
];

/// A route that is served.
pub struct Endpoint {
    /// The route.
    pub route: &'static Route,
    /// Its path before the id of a job, and after it; `None`: it has no id.
    parts: (&'static str, Option<&'static str>),
    /// Path of the gRPC method.
    pub rpc_path: PathAndQuery,
    /// Descriptor of the request.
    pub input: MessageDescriptor,
    /// Descriptor of the answer.
    pub output: MessageDescriptor,
    /// Form of the request.
    pub request_form: Form,
    /// Form of the answer.
    pub form: Arc<Form>,
    /// The answer is a stream of events.
    pub is_stream: bool,
}

impl Endpoint {
    /// Matches a path. Returns the id in it, which is empty if the route has none.
    fn matched<'a>(&self, path: &'a str) -> Option<&'a str> {
        let (before, after) = self.parts;
        let Some(after) = after else { return (before == path).then_some("") };
        let id = path.strip_prefix(before)?.strip_suffix(after)?;
        (!id.is_empty() && !id.contains('/')).then_some(id)
    }

    /// Returns the field of the request for the id in the path.
    pub fn id_field(&self) -> &Field {
        let field = self.request_form.field("job_id").or_else(|| self.request_form.field("job_ids"));
        field.expect("the request of a path with an id has a field for it")
    }
}

/// All routes that are served.
pub struct Routes(Vec<Arc<Endpoint>>);

/// Outcome of the search for a route.
pub enum Found<'a> {
    /// The route, and the id of a job if its path has one.
    Endpoint(&'a Arc<Endpoint>, Option<String>),
    /// The path exists, but not for this method. Has the value of `Allow`.
    OtherMethods(String),
    /// The path is unknown.
    Nothing,
}

impl Routes {
    /// Returns the routes whose methods are in `schema`.
    pub fn new(schema: &Schema) -> Self {
        let endpoint = |route: &'static Route| {
            let (input, output, is_stream) = schema.method(route.rpc)?;
            let rpc_path = format!("/jobtrack.v1.{}", route.rpc).parse().expect("a name is a path");
            let [request_form, form] = [&input, &output].map(|message| Form::new(message.clone()));
            let parts = route.path.split_once(ID).map_or((route.path, None), |(before, after)| (before, Some(after)));
            let form = Arc::new(form);
            Some(Arc::new(Endpoint { route, parts, rpc_path, input, output, request_form, form, is_stream }))
        };
        Self(ROUTES.iter().filter_map(endpoint).collect())
    }

    /// Finds the route of a request. A route for GET also serves HEAD.
    pub fn find(&self, verb: &Method, path: &str) -> Found<'_> {
        let wanted = if verb == Method::HEAD { &Method::GET } else { verb };
        let mut endpoints = self.0.iter().filter(|endpoint| endpoint.route.verb == *wanted);
        if let Some((endpoint, id)) = endpoints.find_map(|endpoint| Some((endpoint, endpoint.matched(path)?))) {
            let id = (!id.is_empty()).then(|| percent_decode_str(id).decode_utf8_lossy().into_owned());
            return Found::Endpoint(endpoint, id);
        }
        // In a POST the text after the last colon is the action. A
        // path with an unknown action counts as unknown.
        let is_unknown_action =
            wanted == Method::POST && path.rsplit('/').next().is_some_and(|last| last.contains(':'));
        match self.allowed(path) {
            allowed if allowed.is_empty() || is_unknown_action => Found::Nothing,
            allowed => Found::OtherMethods(allowed),
        }
    }

    /// Returns the methods that a path takes, as the value of `Allow`.
    fn allowed(&self, path: &str) -> String {
        let mut verbs: Vec<&str> = Vec::new();
        for endpoint in self.0.iter().filter(|endpoint| endpoint.matched(path).is_some()) {
            verbs.push(endpoint.route.verb.as_str());
            if endpoint.route.verb == Method::GET {
                verbs.push("HEAD");
            }
        }
        verbs.join(", ")
    }

    /// Returns all routes that are served.
    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.0
    }

    /// Returns a text that lists all paths.
    pub fn list(&self) -> String {
        let lines = self.0.iter().map(|endpoint| format!("{} {}", endpoint.route.verb, endpoint.route.path));
        lines.chain([format!("GET {OPENAPI}")]).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(verb: &Method, path: &str) -> String {
        let routes = Routes::new(&Schema::new());
        match routes.find(verb, path) {
            Found::Endpoint(endpoint, id) => format!("{} {}", endpoint.route.rpc, id.unwrap_or_default()),
            Found::OtherMethods(allow) => allow,
            Found::Nothing => String::new(),
        }
    }

    #[test]
    fn ids_may_have_colons_and_a_verb_follows_the_last_one() {
        let (get, post) = (&Method::GET, &Method::POST);
        assert_eq!(found(get, "/v1/jobs/a:start"), "JobService/GetJob a:start");
        assert_eq!(found(&Method::HEAD, "/v1/jobs/a%3Ab"), "JobService/GetJob a:b");
        assert_eq!(found(post, "/v1/jobs/a:b:start"), "JobService/StartAttempt a:b");
        assert_eq!(found(post, "/v1/jobs/:start:start"), "JobService/StartAttempt :start");
        assert_eq!(found(get, "/v1/jobs:batchGet"), "JobService/BatchGetJobs ");
        assert_eq!(found(get, "/v1/jobs/a/events"), "JobService/WatchJob a");
        assert_eq!(found(&Method::DELETE, "/v1/jobs/a"), "JobService/DeleteJob a");
    }

    #[test]
    fn other_methods_and_unknown_paths_are_told_apart() {
        assert_eq!(found(&Method::PUT, "/v1/jobs"), "POST, GET, HEAD");
        assert_eq!(found(&Method::POST, "/v1/jobs/a"), "GET, HEAD, DELETE");
        assert_eq!(found(&Method::POST, "/v1/jobs/a:pause"), "");
        for path in ["/v1", "/v1/", "/v1/jobs/", "/v1/jobs/a/b", "/v1/jobs//events", "/v2/jobs", "/v1/jobs/a/events/"] {
            assert_eq!(found(&Method::GET, path), "", "{path}");
        }
    }
}
