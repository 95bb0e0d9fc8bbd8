//! kubelet's side of CRI: images and pods, over containerd's socket or over oncefs's proxy.

mod messages;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::runtime::Runtime;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use messages as of;
use messages::{AuthConfig, ContainerState, Image, ImageSpec, NamespaceMode};

/// However slow the machine is: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client of one node's CRI: the image service may be another's than the runtime service.
#[derive(Clone)]
pub(crate) struct Cri {
    runtime: Arc<Runtime>,
    images: PathBuf,
    pods: PathBuf,
    /// Where containers' output is kept.
    logs: PathBuf,
    cgroup: String,
    made: Arc<AtomicU32>,
}

/// A sandbox that runs.
#[derive(Clone)]
pub(crate) struct Pod {
    cri: Cri,
    pub(crate) id: String,
    config: of::PodSandboxConfig,
}

/// A container of a pod.
pub(crate) struct Container {
    cri: Cri,
    pub(crate) id: String,
    log: PathBuf,
}

/// How a program in a container ended.
pub(crate) struct Executed {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

// === impl Cri ===

impl Cri {
    pub(crate) fn new(runtime: Arc<Runtime>, images: PathBuf, pods: PathBuf, logs: PathBuf, cgroup: &str) -> Self {
        Self { runtime, images, pods, logs, cgroup: cgroup.to_owned(), made: Arc::default() }
    }

    /// Pulls an image. Gives containerd's id of it.
    pub(crate) fn pull(&self, image: &str) -> Result<String, Status> {
        self.runtime.block_on(self.pulling(image.to_owned(), None))
    }

    pub(crate) fn pull_as(&self, image: &str, user: &str, password: &str) -> Result<String, Status> {
        let auth = AuthConfig { username: user.to_owned(), password: password.to_owned() };
        self.runtime.block_on(self.pulling(image.to_owned(), Some(auth)))
    }

    /// Pulls all of these at the same time, each over a connection of its own.
    pub(crate) fn pull_at_once(&self, images: &[String]) -> Vec<Result<String, Status>> {
        let pulls = images.iter().map(|image| self.runtime.spawn(self.clone().pulling_owned(image.clone())));
        let pulls: Vec<_> = pulls.collect();
        pulls.into_iter().map(|pull| self.runtime.block_on(pull).unwrap()).collect()
    }

    async fn pulling_owned(self, image: String) -> Result<String, Status> {
        self.pulling(image, None).await
    }

    async fn pulling(&self, image: String, auth: Option<AuthConfig>) -> Result<String, Status> {
        let request = of::PullImageRequest { image: Some(ImageSpec { image }), auth, sandbox_config: None };
        let pulled: of::PullImageResponse = call(&self.images, "/runtime.v1.ImageService/PullImage", request).await?;
        Ok(pulled.image_ref)
    }

    pub(crate) fn image(&self, image: &str) -> Option<Image> {
        let answer: of::ImageStatusResponse = self.images("/runtime.v1.ImageService/ImageStatus", asked(image));
        answer.image
    }

    pub(crate) fn images_listed(&self) -> Vec<Image> {
        let answer: of::ListImagesResponse = self.images("/runtime.v1.ImageService/ListImages", of::Nothing {});
        answer.images
    }

    /// Where containerd may be without its snapshotter for a moment.
    pub(crate) fn try_to_remove_image(&self, image: &str) -> Result<(), Status> {
        let removed = call(&self.images, "/runtime.v1.ImageService/RemoveImage", asked(image));
        self.runtime.block_on(removed).map(|_: of::Nothing| ())
    }

    pub(crate) fn remove_image(&self, image: &str) {
        let _: of::Nothing = self.images("/runtime.v1.ImageService/RemoveImage", asked(image));
    }

    /// Where images are kept, and the bytes they take there.
    pub(crate) fn image_filesystems(&self) -> Vec<(String, u64)> {
        let answer: of::ImageFsInfoResponse = self.images("/runtime.v1.ImageService/ImageFsInfo", of::Nothing {});
        let usages = answer.image_filesystems.into_iter();
        usages.map(|usage| (usage.fs_id.unwrap().mountpoint, usage.used_bytes.unwrap_or_default().value)).collect()
    }

    /// Runs a pod on the node's own network: no CNI is needed.
    pub(crate) fn run_pod(&self, name: &str) -> Pod {
        let config = self.pod_config(name);
        let request = of::RunPodSandboxRequest { config: Some(config.clone()) };
        let of::ById { id } = self.pods("/runtime.v1.RuntimeService/RunPodSandbox", request);
        Pod { cri: self.clone(), id, config }
    }

    fn pod_config(&self, name: &str) -> of::PodSandboxConfig {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let metadata = of::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-{number}"),
            namespace: "tests".to_owned(),
            attempt: 0,
        };
        let log_directory = self.logs.join(&metadata.uid);
        std::fs::create_dir_all(&log_directory).unwrap();
        let security = of::LinuxSandboxSecurityContext { namespace_options: Some(on_the_nodes_network()) };
        of::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: String::new(),
            log_directory: log_directory.to_str().unwrap().to_owned(),
            linux: Some(of::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.cgroup),
                security_context: Some(security),
            }),
        }
    }

    #[track_caller]
    fn images<Q: Message + 'static, A: Message + Default + 'static>(&self, path: &'static str, request: Q) -> A {
        self.done(path, call(&self.images, path, request))
    }

    #[track_caller]
    fn pods<Q: Message + 'static, A: Message + Default + 'static>(&self, path: &'static str, request: Q) -> A {
        self.done(path, call(&self.pods, path, request))
    }

    #[track_caller]
    fn done<A>(&self, path: &str, call: impl Future<Output = Result<A, Status>>) -> A {
        self.runtime.block_on(call).unwrap_or_else(|status| panic!("{path}: {status}"))
    }

    /// Whether CRI answers at all: containerd's socket is there before its plugins are.
    pub(crate) fn answers(&self) -> bool {
        let asked = call(&self.pods, "/runtime.v1.RuntimeService/Version", of::Nothing {});
        self.runtime.block_on(asked).is_ok_and(|_: of::Nothing| true)
    }
}

fn asked(image: &str) -> of::ImageRequest {
    of::ImageRequest { image: Some(ImageSpec { image: image.to_owned() }) }
}

fn on_the_nodes_network() -> of::NamespaceOption {
    of::NamespaceOption { network: NamespaceMode::Node.into(), pid: NamespaceMode::Container.into() }
}

/// One call over a connection of its own, as a client that was just started makes it.
async fn call<Q, A>(socket: &Path, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let called = async {
        let mut grpc = tonic::client::Grpc::new(connect(socket).await?);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await.map(Response::into_inner)
    };
    tokio::time::timeout(PATIENCE, called).await.unwrap_or_else(|_| panic!("{path}: no answer within {PATIENCE:?}"))
}

/// A connection to a Unix socket.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    endpoint.connect().await.map_err(|error| Status::unavailable(format!("{}: {error:?}", socket.display())))
}

// === impl Pod ===

impl Pod {
    /// A container of an image that was pulled. Without words it runs what the image says.
    pub(crate) fn create(&self, name: &str, image: &str, words: &[&str]) -> Container {
        let log_path = format!("{name}.log");
        let security = of::LinuxContainerSecurityContext { namespace_options: Some(on_the_nodes_network()) };
        let config = of::ContainerConfig {
            metadata: Some(of::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned() }),
            command: words.iter().map(|&word| word.to_owned()).collect(),
            args: Vec::new(),
            log_path: log_path.clone(),
            linux: Some(of::LinuxContainerConfig { security_context: Some(security) }),
        };
        let request = of::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let of::ById { id } = self.cri.pods("/runtime.v1.RuntimeService/CreateContainer", request);
        Container { cri: self.cri.clone(), id, log: Path::new(&self.config.log_directory).join(log_path) }
    }

    pub(crate) fn start(&self, name: &str, image: &str, words: &[&str]) -> Container {
        let container = self.create(name, image, words);
        container.start();
        container
    }

    /// Runs a container to its end. Gives what it said.
    pub(crate) fn run(&self, name: &str, image: &str, words: &[&str]) -> String {
        let container = self.start(name, image, words);
        let code = container.wait();
        let said = container.said();
        assert_eq!(code, 0, "{name}: {words:?}: {said}");
        container.remove();
        said
    }

    /// Stops and removes it with all its containers.
    pub(crate) fn remove(self) {
        let id = of::ById { id: self.id.clone() };
        let _: of::Nothing = self.cri.pods("/runtime.v1.RuntimeService/StopPodSandbox", id.clone());
        let _: of::Nothing = self.cri.pods("/runtime.v1.RuntimeService/RemovePodSandbox", id);
    }
}

// === impl Container ===

impl Container {
    pub(crate) fn start(&self) {
        let id = of::ById { id: self.id.clone() };
        let _: of::Nothing = self.cri.pods("/runtime.v1.RuntimeService/StartContainer", id);
    }

    pub(crate) fn stop(&self) {
        let request = of::StopContainerRequest { container_id: self.id.clone(), timeout: 1 };
        let _: of::Nothing = self.cri.pods("/runtime.v1.RuntimeService/StopContainer", request);
    }

    pub(crate) fn remove(&self) {
        let id = of::ById { id: self.id.clone() };
        let _: of::Nothing = self.cri.pods("/runtime.v1.RuntimeService/RemoveContainer", id);
    }

    fn status(&self) -> of::ContainerStatus {
        let id = of::ById { id: self.id.clone() };
        let answer: of::ContainerStatusResponse = self.cri.pods("/runtime.v1.RuntimeService/ContainerStatus", id);
        answer.status.unwrap()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.status().state() == ContainerState::Running
    }

    /// Waits for its end. Gives its exit code.
    pub(crate) fn wait(&self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if status.state() == ContainerState::Exited {
                return status.exit_code;
            }
            assert!(Instant::now() < deadline, "the container does not end within {PATIENCE:?}: {status:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a program in it, to its end.
    pub(crate) fn exec(&self, words: &[&str]) -> Executed {
        let cmd = words.iter().map(|&word| word.to_owned()).collect();
        let request = of::ExecSyncRequest { container_id: self.id.clone(), cmd, timeout: 60 };
        let answer: of::ExecSyncResponse = self.cri.pods("/runtime.v1.RuntimeService/ExecSync", request);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Executed { code: answer.exit_code, out: text(&answer.stdout), err: text(&answer.stderr) }
    }

    /// What it wrote to its output so far. CRI's log has a time, a stream and a tag before each line.
    pub(crate) fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }
}

// === impl Executed ===

impl Executed {
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
}
