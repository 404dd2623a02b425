//! Who may call what: the table of modules, enforced where calls arrive (ADR 45).
//!
//! A caller is known by the names in its certificate. A module acts for itself with no more than that; for a user it sends the user's access token,
//! which is verified here again. Without `[mtls]`, which is on loopback only, any process of this machine can say that it is any module.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use banyan_core::{AccessToken, Actor, Call, Fault, SECURITY, VerifiedCaller};
use futures::{FutureExt, future::BoxFuture};
use prost_types::FileDescriptorSet;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{self, Extensions, HeaderMap},
    },
    server::NamedService,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use super::wire;
use crate::mtls::names_in;

/// The name of the gateway in certificates, beside those of the modules.
pub const GATEWAY: &str = "gateway";

/// Who may call a module.
#[derive(Clone, Debug, Default)]
pub struct Callers {
    /// The modules that call it.
    pub modules: Vec<&'static str>,
    /// The modules that subscribe to its events: they read its feed.
    pub subscribers: Vec<&'static str>,
    /// Whether the gateway's pages call it. A page changes nothing, so it may make no command.
    pub gateway: bool,
    /// The calls that every process makes, in nobody's name, to verify access tokens.
    pub everyone: &'static [&'static str],
}

/// Verifies the access tokens of users.
#[async_trait]
pub trait TokenVerifier: Send + Sync {
    /// # Errors
    /// A token that is not valid now; that it cannot be verified.
    async fn verify(&self, token: &str) -> Result<Actor, Fault>;
}

/// The rules of a server.
pub(super) struct Access {
    services: HashMap<&'static str, Rules>,
    tokens: Option<Arc<dyn TokenVerifier>>,
    over_mtls: bool,
}

/// Who may call one service.
#[derive(Clone, Debug, Default)]
struct Rules {
    callers: Callers,
    /// The calls that change something: those whose request has a `command_id`.
    commands: HashSet<String>,
}

impl Access {
    pub fn new(tokens: Option<Arc<dyn TokenVerifier>>, over_mtls: bool) -> Self {
        Access {
            services: HashMap::new(),
            tokens,
            over_mtls,
        }
    }

    /// Allows these callers to call a service. What is not allowed is refused.
    pub fn allow(&mut self, service: &'static str, callers: Callers, described: &FileDescriptorSet) {
        let commands = commands(service, described);
        self.services.insert(service, Rules { callers, commands });
    }

    /// The caller of a request to `/<service>/<method>`.
    ///
    /// # Errors
    /// It must not make this call, or does not say in whose name it makes it.
    async fn admit(
        &self,
        service: &str,
        method: &str,
        peer: &Peer,
        head: &HeaderMap,
    ) -> Result<VerifiedCaller, Status> {
        let none = Rules::default();
        let rules = self.services.get(service).unwrap_or(&none);
        if rules.callers.everyone.contains(&method) {
            return Ok(VerifiedCaller::default());
        }
        let denied = |why: String| Err(Status::permission_denied(why));
        if let Some(names) = peer.names.as_ref()
            && !names.iter().any(|name| rules.allows(name, method))
        {
            return denied(format!(
                "the table of modules does not allow {} to call {service}/{method}",
                peer.name()
            ));
        }
        if let Some(token) = text(head, Call::TOKEN) {
            return self.user(token).await;
        }
        let actor = text(head, Call::ACTOR).and_then(|json| serde_json::from_str(json).ok());
        match actor {
            None => Err(Status::unauthenticated(
                "a call needs an actor: the access token of a user, or the name of the calling module",
            )),
            Some(Actor::User { .. }) => Err(Status::unauthenticated("a user is taken from an access token alone")),
            Some(Actor::Module { name }) if !peer.is(&name) => denied(format!("{} is not {name}", peer.name())),
            Some(Actor::Module { name }) if !rules.allows(&name, method) => denied(format!(
                "the table of modules does not allow {name} to call {service}/{method}"
            )),
            Some(actor) => Ok(VerifiedCaller { actor, token: None }),
        }
    }

    async fn user(&self, header: &str) -> Result<VerifiedCaller, Status> {
        let token = AccessToken::from_header(header);
        let token = token.ok_or_else(|| Status::unauthenticated("authorization must be a bearer token"))?;
        let Some(tokens) = &self.tokens else {
            return Err(Status::unauthenticated("this product has no access tokens"));
        };
        // With details: the user learns that the token is no longer valid.
        let actor = tokens.verify(token.expose()).await;
        let actor = actor.map_err(|fault| wire::status(&fault))?;
        Ok(VerifiedCaller {
            actor,
            token: Some(token),
        })
    }
}

impl Rules {
    fn allows(&self, name: &str, method: &str) -> bool {
        let Callers {
            modules,
            subscribers,
            gateway,
            ..
        } = &self.callers;
        modules.contains(&name)
            || subscribers.contains(&name)
            || (*gateway && name == GATEWAY && !self.commands.contains(method))
    }
}

/// The process at the other end of the connection.
#[derive(Debug)]
struct Peer {
    /// `None` in plaintext.
    names: Option<Vec<String>>,
    address: String,
}

impl Peer {
    fn of(extensions: &Extensions, over_mtls: bool) -> Peer {
        let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        let tcp = tls.map(TlsConnectInfo::get_ref).or_else(|| extensions.get());
        let certificate = tls.and_then(TlsConnectInfo::peer_certs);
        let own = certificate.iter().flat_map(|chain| chain.first());
        Peer {
            names: over_mtls.then(|| own.flat_map(names_in).collect()),
            address: tcp
                .and_then(TcpConnectInfo::remote_addr)
                .map(|address| address.to_string())
                .unwrap_or_default(),
        }
    }

    fn is(&self, name: &str) -> bool {
        let names = self.names.as_ref();
        names.is_none_or(|names| names.iter().any(|known| known == name))
    }

    /// For messages.
    fn name(&self) -> String {
        match &self.names {
            None => "a process of this machine".to_owned(),
            Some(names) if names.is_empty() => "a process whose certificate names no module".to_owned(),
            Some(names) => format!("the process with the certificate of {}", names.join(", ")),
        }
    }
}

/// A service whose callers are checked first.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    pub inner: S,
    pub access: Arc<Access>,
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + NamedService + Clone + Send,
    S: 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that is ready goes, its copy stays.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let access = self.access.clone();
        async move {
            let path = request.uri().path().to_owned();
            let method = path.rsplit('/').next().unwrap_or_default();
            let peer = Peer::of(request.extensions(), access.over_mtls);
            match access.admit(S::NAME, method, &peer, request.headers()).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(status) => {
                    let (reason, caller, address) = (status.message(), peer.name(), &peer.address);
                    tracing::warn!(target: SECURITY, event = "call_refused", call = path, caller, address, reason, "a call was refused");
                    Ok(status.into_http())
                }
            }
        }
        .boxed()
    }
}

fn text<'a>(head: &'a HeaderMap, name: &str) -> Option<&'a str> {
    head.get(name)?.to_str().ok()
}

/// The calls of a service whose request has a `command_id`.
fn commands(service: &str, described: &FileDescriptorSet) -> HashSet<String> {
    let mut messages = HashSet::new();
    for file in &described.file {
        let is_command = |field: &prost_types::FieldDescriptorProto| field.name() == "command_id";
        let commands = file
            .message_type
            .iter()
            .filter(|message| message.field.iter().any(is_command));
        messages.extend(commands.map(|message| format!(".{}.{}", file.package(), message.name())));
    }
    let mut found = HashSet::new();
    for file in &described.file {
        let own = file.service.iter();
        for known in own.filter(|known| format!("{}.{}", file.package(), known.name()) == service) {
            let commands = known
                .method
                .iter()
                .filter(|method| messages.contains(method.input_type()));
            found.extend(commands.map(|method| method.name().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "banyan.events.v1.EventFeed";

    struct OneToken;

    #[async_trait]
    impl TokenVerifier for OneToken {
        async fn verify(&self, token: &str) -> Result<Actor, Fault> {
            match token {
                "good" => Ok(Actor::user(uuid::Uuid::from_u128(1), ["customer"])),
                _ => Err(Fault::unauthenticated("invalid_token", "The access token has expired.")),
            }
        }
    }

    fn access(over_mtls: bool) -> Access {
        let mut access = Access::new(Some(Arc::new(OneToken)), over_mtls);
        let callers = Callers {
            modules: vec!["orders"],
            subscribers: vec!["notifications"],
            gateway: true,
            everyone: &["Keys"],
        };
        access.services.insert(
            SERVICE,
            Rules {
                callers,
                commands: HashSet::from(["Refund".to_owned()]),
            },
        );
        access
    }

    fn head(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut head = HeaderMap::new();
        for (name, value) in values {
            head.insert(*name, value.parse().unwrap());
        }
        head
    }

    fn peer(names: Option<&[&str]>) -> Peer {
        Peer {
            names: names.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            address: "127.0.0.1:1".to_owned(),
        }
    }

    /// The label of the actor that is admitted, or the code of the refusal and whether it is the verifier's.
    async fn admitted(
        peer: &Peer,
        method: &str,
        values: &[(&'static str, &str)],
    ) -> Result<String, (tonic::Code, bool)> {
        let access = access(peer.names.is_some());
        let admitted = access.admit(SERVICE, method, peer, &head(values)).await;
        admitted
            .map(|caller| caller.actor.label())
            .map_err(|status| (status.code(), !status.details().is_empty()))
    }

    fn module(name: &str) -> String {
        serde_json::to_string(&Actor::module(name)).unwrap()
    }

    const DENIED: Result<String, (tonic::Code, bool)> = Err((tonic::Code::PermissionDenied, false));
    const UNAUTHENTICATED: Result<String, (tonic::Code, bool)> = Err((tonic::Code::Unauthenticated, false));

    #[tokio::test]
    async fn a_module_acts_for_itself_alone_and_only_where_the_table_allows_it() {
        let (orders, catalog) = (module("orders"), module("catalog"));
        let by = |names: &[&str], actor: String| {
            let peer = peer(Some(names));
            async move { admitted(&peer, "Refund", &[(Call::ACTOR, &actor)]).await }
        };
        assert_eq!(
            by(&["localhost", "orders"], orders.clone()).await,
            Ok("module:orders".to_owned())
        );
        assert_eq!(by(&["catalog"], orders.clone()).await, DENIED, "another's name");
        assert_eq!(by(&["catalog"], catalog.clone()).await, DENIED, "not in the table");
        assert_eq!(
            by(&["catalog", "orders"], catalog).await,
            DENIED,
            "its process contains orders"
        );
        assert_eq!(
            by(&["notifications"], orders.clone()).await,
            DENIED,
            "another's name, also of a module that may call itself"
        );
        assert_eq!(by(&[], orders.clone()).await, DENIED, "a certificate without names");
        assert_eq!(by(&["orders.evil.example"], orders).await, DENIED);
    }

    #[tokio::test]
    async fn a_user_is_taken_from_a_valid_token_alone() {
        let user = serde_json::to_string(&Actor::user(uuid::Uuid::from_u128(9), ["ops"])).unwrap();
        for peer in [peer(Some(&["orders"])), peer(None)] {
            let of = async |values: &[(&'static str, &str)]| admitted(&peer, "Refund", values).await;
            let good = Ok("user:00000000-0000-0000-0000-000000000001".to_owned());
            assert_eq!(of(&[(Call::TOKEN, "Bearer good")]).await, good);
            assert_eq!(of(&[(Call::TOKEN, "Bearer good"), (Call::ACTOR, &user)]).await, good);
            assert_eq!(of(&[(Call::ACTOR, &user)]).await, UNAUTHENTICATED, "a bare user");
            assert_eq!(of(&[]).await, UNAUTHENTICATED, "no actor");
            assert_eq!(of(&[(Call::ACTOR, "{")]).await, UNAUTHENTICATED, "not an actor");
            assert_eq!(
                of(&[(Call::TOKEN, "good")]).await,
                UNAUTHENTICATED,
                "not a bearer token"
            );
            let expired = of(&[(Call::TOKEN, "Bearer old"), (Call::ACTOR, &user)]).await;
            assert_eq!(expired, Err((tonic::Code::Unauthenticated, true)));
        }
        let stranger = peer(Some(&["catalog"]));
        let by_stranger = admitted(&stranger, "Refund", &[(Call::TOKEN, "Bearer good")]).await;
        assert_eq!(by_stranger, DENIED, "a token does not let another module call");
    }

    #[tokio::test]
    async fn the_gateway_makes_no_commands_and_everyone_fetches_keys() {
        let gateway = peer(Some(&["gateway"]));
        let actor = module("gateway");
        let values = [(Call::ACTOR, actor.as_str())];
        assert_eq!(
            admitted(&gateway, "Find", &values).await,
            Ok("module:gateway".to_owned())
        );
        assert_eq!(admitted(&gateway, "Refund", &values).await, DENIED);
        assert_eq!(
            admitted(&gateway, "Refund", &[(Call::TOKEN, "Bearer good")]).await,
            DENIED,
            "with a user's token neither"
        );
        let keys = admitted(&peer(Some(&["catalog"])), "Keys", &values).await;
        assert_eq!(keys, Ok("anonymous".to_owned()), "in nobody's name, whatever it says");
        assert_eq!(
            admitted(&peer(None), "Refund", &values).await,
            DENIED,
            "on loopback the table holds too"
        );
    }

    #[test]
    fn a_command_is_known_by_its_id() {
        use prost_types::{
            DescriptorProto, FieldDescriptorProto, FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto,
        };
        let message = |name: &str, field: &str| DescriptorProto {
            name: Some(name.to_owned()),
            field: vec![FieldDescriptorProto {
                name: Some(field.to_owned()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let method = |name: &str, input: &str| MethodDescriptorProto {
            name: Some(name.to_owned()),
            input_type: Some(format!(".shop.v1.{input}")),
            ..Default::default()
        };
        let file = FileDescriptorProto {
            package: Some("shop.v1".to_owned()),
            message_type: vec![message("RefundOrder", "command_id"), message("FindOrder", "order_id")],
            service: vec![ServiceDescriptorProto {
                name: Some("Orders".to_owned()),
                method: vec![method("Refund", "RefundOrder"), method("Find", "FindOrder")],
                ..Default::default()
            }],
            ..Default::default()
        };
        let set = FileDescriptorSet { file: vec![file] };
        assert_eq!(commands("shop.v1.Orders", &set), HashSet::from(["Refund".to_owned()]));
        assert!(commands("shop.v1.Payments", &set).is_empty());
    }
}
