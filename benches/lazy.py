#!/usr/bin/env python3
"""lazy.py [IMAGE...]: from a mount to the first output, over links of several delays and rates. Root.

Each turn begins with nothing on the node and dropped caches, and ends with the first line of the image's program (redis: the
first PONG). The registry is Debian's, behind `benches/link.rs`; its log says what it was asked for. The same image comes as it
is, with an index of oncefs, with one and the profile of a start before, as eStargz, as zstd:chunked and with a SOCI index, each made by its own program. The peers are containerd with
overlayfs, which pulls everything first, and soci-snapshotter with its own index. All of it runs in a network namespace of its own.

    ROUNDS=1 DELAYS=0,5,30 RATES=100,1000 ONCEFS=target/release/oncefs LINK=target/release/deps/link-...
"""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from run import IMAGES, ONCEFS, TOP, Registry, drop_caches, fault_in_memory, median, say  # noqa: E402

ROUNDS = int(os.environ.get("ROUNDS", "1"))
DELAYS = [int(word) for word in os.environ.get("DELAYS", "0,5,30").split(",")]
RATES = [int(word) for word in os.environ.get("RATES", "100,1000").split(",")]
TOOLS = os.path.join(TOP, "target/tools/index")
# soci-snapshotter speaks HTTPS to half of what is on loopback, and to all that is not.
HERE = "10.55.0.1"
PATIENCE = 600
COMMANDS = {
    "redis": ["redis-server", "--save", "", "--dir", "/", "--port", "6379"],
    "golang": ["go", "version"],
    "python-ml": ["python3", "/app/ready.py"],
}
OVERLAYFS, SOCI_SNAPSHOTTER = "containerd, overlayfs", "soci-snapshotter"
UNINDEXED, OWN, PROFILED = "oncefs, no index", "oncefs, its own index", "oncefs, its own index and a profile"
ESTARGZ, ZSTD_CHUNKED, SOCI = "oncefs, eStargz", "oncefs, zstd:chunked", "oncefs, SOCI"
TAGS = {UNINDEXED: "latest", OWN: "once", PROFILED: "once", ESTARGZ: "estargz", ZSTD_CHUNKED: "zstd-chunked", SOCI: "latest"}
# Nothing in the image's manifest binds a SOCI index of version 1.
ENVIRONMENTS = {SOCI: {"ONCEFS_INDEX__TRUST": "registry"}}

CONTAINERD = """version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{at}/c.sock"
# Between a view and its use nothing refers to it.
[plugins."io.containerd.gc.v1.scheduler"]
mutation_threshold = 1000000
schedule_delay = "1h"
startup_delay = "1h"
[proxy_plugins.soci]
type = "snapshot"
address = "{at}/soci.sock"
"""


def do(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit("lazy.py: %s: exit %d\n%s" % (" ".join(map(str, command)), done.returncode, (done.stdout + done.stderr)[-3000:]))
    return done.stdout


def until(what, is_so, patience=60):
    deadline = time.monotonic() + patience
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit("lazy.py: waited in vain until %s" % what)
        time.sleep(0.002)


def listens(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as s:
        with contextlib.suppress(OSError):
            s.connect(address)
            return True
    return False


@contextlib.contextmanager
def running(log, *command, **options):
    with open(log, "a") as f:
        child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=f, stderr=f, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def link(program, port, delay, rate):
    """A slow way to a port: the port to ask instead."""
    child = subprocess.Popen([program, str(port), str(delay), str(rate)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield int(child.stdout.readline())
    finally:
        child.stdin.close()
        child.wait()


@contextlib.contextmanager
def folder(work):
    at = tempfile.mkdtemp(prefix="t-", dir=work)
    try:
        yield at
    finally:
        below = [line.split(" ")[4] for line in open("/proc/self/mountinfo") if line.split(" ")[4].startswith(at + "/")]
        for place in reversed(below):
            subprocess.run(["umount", "--lazy", place], stderr=subprocess.DEVNULL)
        shutil.rmtree(at, ignore_errors=True)


# === what a node does ===


def first_output(image, root):
    """Runs the image's program and waits for what it says first."""
    inside = 'mount --bind /proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot "$0" /usr/bin/env "$@"'
    path = "PATH=/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    command = ["unshare", "--mount", "sh", "-c", inside, root, path, "OPENBLAS_NUM_THREADS=1", *COMMANDS[image]]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        if image == "redis":
            until("redis answers", pongs, PATIENCE)
        elif not child.stdout.readline():
            sys.exit("lazy.py: %s says nothing" % " ".join(COMMANDS[image]))
    finally:
        child.kill()
        child.wait()


def pongs():
    with socket.socket() as s, contextlib.suppress(OSError):
        s.connect(("127.0.0.1", 6379))
        s.sendall(b"PING\r\n")
        return s.recv(7) == b"+PONG\r\n"
    return False


def once(at, *arguments):
    return [ONCEFS, "--root", at + "/store", "--run", at + "/run", *arguments]


def turn_of_oncefs(at, image, reference, env):
    os.makedirs(at + "/mnt", exist_ok=True)
    try:
        start = time.monotonic()
        do(*once(at, "mount", reference, at + "/mnt"), env=dict(os.environ, **env))
        first_output(image, at + "/mnt")
        return time.monotonic() - start
    finally:
        do(*once(at, "umount", "--all"))


def turn_with_profile(at, image, reference, registry):
    """A start on a node that has seen one, and has none of its bytes any more."""
    turn_of_oncefs(at, image, reference, {})
    do(*once(at, "prune", "--all"))
    registry.forget()
    drop_caches()
    return turn_of_oncefs(at, image, reference, {})


def containerd(at, **options):
    with open(at + "/c.toml", "w") as f:
        f.write(CONTAINERD.format(at=at))
    return running(at + "/c.log", "containerd", "--config", at + "/c.toml", **options)


def chain_of(image):
    """The chain id of the whole image: what containerd calls its topmost snapshot."""
    import hashlib
    blob = lambda digest: json.load(open(os.path.join(IMAGES, image, "blobs", *digest.split(":"))))
    index = json.load(open(os.path.join(IMAGES, image, "index.json")))
    diff_ids = blob(blob(index["manifests"][0]["digest"])["config"]["digest"])["rootfs"]["diff_ids"]
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = "sha256:" + hashlib.sha256(("%s %s" % (chain, diff_id)).encode()).hexdigest()
    return chain


def turn_of_containerd(at, image, snapshotter, *pull):
    """A pull, a snapshot over it, and the program in there."""
    env = dict(os.environ, CONTAINERD_ADDRESS=at + "/c.sock", CONTAINERD_SNAPSHOTTER=snapshotter)
    os.makedirs(at + "/mnt")
    start = time.monotonic()
    do(*pull, env=env)
    do("ctr", "snapshots", "view", "bench", chain_of(image), env=env)
    do("sh", "-c", do("ctr", "snapshots", "mounts", at + "/mnt", "bench", env=env))
    first_output(image, at + "/mnt")
    return time.monotonic() - start


def turn_of_overlayfs(at, image, reference):
    with containerd(at):
        until("containerd listens", lambda: listens(at + "/c.sock"))
        return turn_of_containerd(at, image, "overlayfs", "ctr", "images", "pull", "--plain-http", reference)


def turn_of_soci(at, image, reference, certificate):
    env = dict(os.environ, SSL_CERT_FILE=certificate)
    open(at + "/soci.toml", "w").close()
    snapshotter = [TOOLS + "/soci-snapshotter-grpc", "-address", at + "/soci.sock", "-config", at + "/soci.toml", "-root", at + "/soci"]
    with containerd(at, env=env), running(at + "/s.log", *snapshotter, env=env):
        until("soci-snapshotter listens", lambda: listens(at + "/c.sock") and listens(at + "/soci.sock"))
        os.environ["SSL_CERT_FILE"] = certificate
        return turn_of_containerd(at, image, "soci", TOOLS + "/soci", "image", "rpull", reference)


# === what is in the registry ===


def own_indexes(work, registry, image):
    """Binds oncefs's own index to the image under a new name: the seconds that it took to make and push, and the bytes."""
    plain = registry.named(image)
    with folder(work) as at:
        do(*once(at, "pull", plain))
        start = time.monotonic()
        do(*once(at, "convert", plain, plain.replace(":latest", ":once")))
        seconds = time.monotonic() - start
    said = do(*once(work + "/asked", "index", "ls", "--json", plain.replace(":latest", ":once")))
    return seconds, sum(layer["size"] for layer in json.loads(said)["indexes"][0]["layers"])


def indexed_by_others(work, registry, image):
    plain = registry.named(image)
    with folder(work) as at:
        with containerd(at):
            until("containerd listens", lambda: listens(at + "/c.sock"))
            env = dict(os.environ, CONTAINERD_ADDRESS=at + "/c.sock")
            do("ctr", "images", "pull", "--plain-http", plain, env=env)
            name = plain.replace(":latest", ":estargz")
            do(TOOLS + "/ctr-remote", "images", "convert", "--oci", "--estargz", plain, name, env=env)
            do("ctr", "images", "push", "--plain-http", name, env=env)
            # Its store has one place on a machine: here it has one of its own.
            line = ("mount -t tmpfs none /var/lib && mkdir /var/lib/soci-snapshotter-grpc && {soci} create {name} && "
                    "{soci} push --plain-http {name}").format(soci=TOOLS + "/soci", name=plain)
            do("unshare", "--mount", "sh", "-ec", line, env=env)
        with open(at + "/policy.json", "w") as f:
            f.write('{"default": [{"type": "insecureAcceptAnything"}]}')
        do(TOOLS + "/skopeo", "copy", "--quiet", "--policy", at + "/policy.json", "--src-tls-verify=false", "--dest-tls-verify=false",
           "--dest-force-compress-format", "--dest-compress-format", "zstd:chunked", "docker://" + plain,
           "docker://" + plain.replace(":latest", ":zstd-chunked"))


@contextlib.contextmanager
def over_tls(registry, work):
    """The same registry for who insists on HTTPS: (port, certificate, log)."""
    certificate, key, log = work + "/cert.pem", work + "/key.pem", os.path.join(registry.work, "log")
    do("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", certificate,
       "-days", "2", "-subj", "/CN=bench", "-addext", "subjectAltName=IP:" + HERE)
    with socket.socket() as s:
        s.bind((HERE, 0))
        port = s.getsockname()[1]
    with open(os.path.join(registry.work, "config.yml")) as f:
        text = f.read()
    text = text.replace("127.0.0.1:%d" % registry.port, "0.0.0.0:%d" % port)
    text = text.replace("http:\n", "http:\n  tls:\n    certificate: %s\n    key: %s\n" % (certificate, key))
    with open(work + "/tls.yml", "w") as f:
        f.write(text)
    with running(log, "docker-registry", "serve", work + "/tls.yml"):
        until("the registry listens", lambda: listens((HERE, port)))
        yield port, certificate


# === the table ===


def bench(work, program, registry, tls, image):
    size = blob_bytes(image)
    seconds, told = own_indexes(work, registry, image)
    indexed_by_others(work, registry, image)
    say("\n## From mount to first output: %s, %.0f MB compressed; caches dropped; medians of %d" % (image, size / 1e6, ROUNDS))
    say("oncefs's own index: made and pushed in %.2f s after a scan, %.2f MB, %.2f %% of the image" % (
        seconds, told / 1e6, 100.0 * told / size))
    say("| link | what | seconds | requests | MB fetched | of the image's | against overlayfs |\n| --- | --- | --- | --- | --- | --- | --- |")
    for rate in RATES:
        for delay in DELAYS:
            bench_link(work, program, registry, tls, image, rate, delay, size)


def bench_link(work, program, registry, tls, image, rate, delay, size):
    tls_port, certificate = tls
    walls, asked = {}, {}
    with link(program, registry.port, delay, rate) as plain_port, link(program, tls_port, delay, rate) as far_port:
        turns = {OVERLAYFS: lambda at: turn_of_overlayfs(at, image, "127.0.0.1:%d/images/%s:latest" % (plain_port, image)),
                 SOCI_SNAPSHOTTER: lambda at: turn_of_soci(at, image, "%s:%d/images/%s:latest" % (HERE, far_port, image), certificate)}
        for kind, tag in TAGS.items():
            reference = "127.0.0.1:%d/images/%s:%s" % (plain_port, image, tag)
            env = ENVIRONMENTS.get(kind, {})
            turns[kind] = lambda at, reference=reference, env=env: turn_of_oncefs(at, image, reference, env)
        once_more = "127.0.0.1:%d/images/%s:%s" % (plain_port, image, TAGS[PROFILED])
        turns[PROFILED] = lambda at: turn_with_profile(at, image, once_more, registry)
        for _ in range(ROUNDS):
            for kind, turn in turns.items():
                with folder(work) as at:
                    registry.forget()
                    drop_caches()
                    walls.setdefault(kind, []).append(turn(at))
                    asked[kind] = registry.asked()
    for kind in turns:
        _, fetched, requests = asked[kind]
        wall, peer = median(walls[kind]), median(walls[OVERLAYFS])
        say("| %d Mbit/s, %d ms | %s | %.2f | %d | %.1f | %.3f | %.1f |" % (
            rate, delay, kind, wall, requests, fetched / 1e6, fetched / size, peer / wall))


def blob_bytes(image):
    blob = lambda digest: json.load(open(os.path.join(IMAGES, image, "blobs", *digest.split(":"))))
    index = json.load(open(os.path.join(IMAGES, image, "index.json")))
    return sum(layer["size"] for layer in blob(index["manifests"][0]["digest"])["layers"])


def link_program():
    """Built before the clock starts; or LINK, built by somebody else."""
    if "LINK" in os.environ:
        return os.environ["LINK"]
    built = do("cargo", "bench", "-q", "--no-run", "--bench", "link", "--message-format", "json", cwd=TOP)
    found = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
    return [f["executable"] for f in found if f.get("executable") and f["target"]["name"] == "link"][-1]


def main():
    if os.geteuid() != 0:
        sys.exit("lazy.py: needs root (mounts, a network namespace, and dropping caches)")
    if os.environ.get("LAZY_INSIDE") != "yes":
        os.environ["LAZY_INSIDE"] = "yes"
        program = link_program()
        os.execvp("unshare", ["unshare", "--net", sys.executable, os.path.abspath(__file__), program, *sys.argv[1:]])
    do("ip", "link", "set", "lo", "up")
    do("ip", "address", "add", HERE + "/32", "dev", "lo")
    program, wanted = sys.argv[1], sys.argv[2:] or list(COMMANDS)
    os.makedirs(os.path.join(TOP, "target/bench"), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.join(TOP, "target/bench")) as work:
        registry = Registry(work, wanted)
        try:
            fault_in_memory()
            with over_tls(registry, work) as tls:
                for image in wanted:
                    bench(work, program, registry, tls, image)
        finally:
            registry.stop()


if __name__ == "__main__":
    main()
