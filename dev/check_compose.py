"""Whether docker-compose.yml is as it should be; `dev/compose` runs it.

    check_compose.py RESOLVED     what `docker compose --profile sim config --format json` made of it
"""

import json
import pathlib
import re
import subprocess
import sys

import yaml

from checks import check, result

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Those that compose gives by itself.
FIXED = {
    "DATABASE_URL", "OWNER_DATABASE_URL", "AMQP_URL", "RABBITMQ_MANAGEMENT_URL", "REDIS_URL", "COORDINATOR_ID",
    "WORKER_ID", "STATUS_HOST", "STATUS_PORT", "PROMETHEUS_HOST", "PROMETHEUS_PORT", "ENABLE_METRICS",
    "OPS_TOKEN", "TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE",
}  # fmt: skip
# Programs that run once.
ONCE = {"migrate", "roles", "broker-users"}
ROLES = {"coordinator": "C", "worker": "W"}


def documented():
    """The settings of .env.example with their tags; and the names of its part for Compose."""
    settings, ours, tags, is_compose = {}, set(), "", False
    for line in (ROOT / ".env.example").read_text().splitlines():
        is_compose = is_compose or line.startswith("# --- Docker Compose only")
        if tagged := re.match(r"# \[([CWP ]+)\]", line):
            tags = tagged.group(1)
        elif name := re.match(r"#?([A-Z][A-Z0-9_]*)=", line):
            if is_compose:
                ours.add(name.group(1))
            else:
                settings[name.group(1)] = tags
    return settings, ours


def check_rights():
    """What the broker's users may do: `p2p queues permissions` says what they need."""
    done = subprocess.run([ROOT / "dev" / "broker-users", "print"], capture_output=True, text=True, timeout=10, env={"PATH": "/usr/bin:/bin", "AMQP_PREFIX": "p2p.prod"})
    rights = {user: rest for user, *rest in (line.split() for line in done.stdout.splitlines())}
    jobs = [f"p2p.prod.jobs.{one}" for one in ("urgent", "normal", "low")]
    names = [*jobs, *(f"p2p.prod.{one}" for one in ("reports", "dead", "events")), "amq.default"]
    own, other = names[:-1], ["p2pXprod.reports", "p2p.prod.reports.other", "other"]
    wanted = {
        "p2p-coordinator": [own, ["p2p.prod.events", "amq.default"], [*jobs, "p2p.prod.reports"]],
        "p2p-worker": [own, ["amq.default"], jobs],
        "p2p-monitor": [[], [], []],
    }
    found = {user: [[n for n in names + other if re.search(pattern, n)] for pattern in patterns] for user, patterns in rights.items()}
    check(found == wanted, f"dev/broker-users gives {found}")


def main(resolved):
    text = (ROOT / "docker-compose.yml").read_text()
    file, config = yaml.safe_load(text), json.loads(pathlib.Path(resolved).read_text())
    settings, ours = documented()

    # Each program gets all its settings, and no other's.
    for service, tag in ROLES.items():
        given = set(file["services"][service]["environment"])
        wanted = {name for name, tags in settings.items() if tag in tags} - FIXED
        check(given - FIXED == wanted, f"{service}: missing {sorted(wanted - given)}, not its own {sorted(given - FIXED - wanted)}")
    check("REDIS_URL" not in file["services"]["coordinator"]["environment"], "coordinator knows Redis")
    worker = config["services"]["worker"]["environment"]
    check("OWNER_DATABASE_URL" not in worker and "p2p_writer:" in worker["DATABASE_URL"], "worker logs in as the owner")

    # Programs are administrators of nothing.
    services = config["services"]
    administrator = services["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"]
    knowing = {name for name, service in services.items() if administrator in json.dumps(service)}
    check(knowing == {"rabbitmq", "broker-users"}, f"the administrator of the broker is known to {sorted(knowing)}")
    for role in ROLES:
        url = services[role]["environment"]["AMQP_URL"]
        check(url.startswith(f"amqp://p2p-{role}:"), f"{role} is not p2p-{role} at the broker")
    check("//p2p-monitor:" in services["coordinator"]["environment"]["RABBITMQ_MANAGEMENT_URL"], "coordinator does not only look at the broker")
    check("//p2p:" in worker["REDIS_URL"], "worker is not p2p in Redis")
    redis = " ".join(services["redis"]["command"])
    check("--user default off" in redis and "-@admin -@dangerous" in redis and "~{p2p:*}:*" in redis, f"Redis: {redis}")
    check_rights()

    # What the file asks of .env is told in .env.example, and the other way round.
    asked = set(re.findall(r"\$\{([A-Z_][A-Z0-9_]*)", text)) - {"P2P_COMMIT", "P2P_IMAGE"}
    check(asked == ours, f".env.example lacks {sorted(asked - ours)}, and has too many {sorted(ours - asked)}")
    passwords = {name for name in asked if name.endswith("PASSWORD")}
    drawn = set(re.search(r"NAMES=\(([^)]*)\)", (ROOT / "dev" / "env").read_text()).group(1).split())
    check(passwords == drawn, f"dev/env draws {sorted(drawn)}, and needed are {sorted(passwords)}")
    for name in passwords:
        defaults = re.findall(rf"\$\{{{name}(?!:\?)[^}}]*\}}", text)
        check(not defaults, f"{name} has a default, or may be empty: {defaults}")

    for name, service in config["services"].items():
        for port in service.get("ports", []):
            check(port.get("host_ip") == "127.0.0.1", f"{name}: port {port.get('published')} is open to others")
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        check("memory" in limits and "cpus" in limits, f"{name} has no limits")
        health = service.get("healthcheck", {})
        check(bool(health.get("disable")) == (name in ONCE) and (name in ONCE or health.get("test")), f"{name}: health check {health}")
        check("no-new-privileges:true" in service.get("security_opt", []), f"{name} may gain privileges")
        check(not service.get("privileged") and service.get("network_mode") is None, f"{name} has more rights than it needs")
        image = service["image"]
        check(":" in image and not image.endswith(":latest"), f"{name}: which version of {image}")
        check(service.get("logging", {}).get("options", {}).get("max-size"), f"{name}: its log grows for ever")
        if "build" in service:
            check(service.get("read_only") and service.get("cap_drop") == ["ALL"], f"{name} may do more than it needs")
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                check(pathlib.Path(volume["source"]).exists(), f"{name} mounts {volume['source']}, which is not there")
                check(volume.get("read_only"), f"{name} may write {volume['source']}")
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            check(condition["condition"] == wanted, f"{name} does not wait for {other}")

    # As long as its drain takes: docs/adr/0021.
    grace = re.search(r"WORKER_STOP_GRACE:-(\d+)s", str(file["services"]["worker"]["stop_grace_period"]))
    timeout = re.search(r"#REQUEST_TIMEOUT_SECONDS=(\d+)", (ROOT / ".env.example").read_text())
    check(grace and int(grace[1]) >= int(timeout[1]) + 45, "a worker is killed while it drains")

    coordinator = config["services"]["coordinator"]
    replicas = coordinator["deploy"]["replicas"]
    check(replicas == 2, f"{replicas} coordinators")
    first, _, last = coordinator["ports"][0]["published"].partition("-")
    check(int(last or first) - int(first) + 1 >= replicas, "coordinators have no port each")
    check("ports" not in config["services"]["worker"], "a worker with a port can't be scaled")
    check(config["services"]["exchange-sim"]["profiles"] == ["sim"], "exchange-sim starts uncalled")
    for role in ROLES:
        # Schema and roles are there before any of them starts.
        check("roles" in config["services"][role]["depends_on"], f"{role} starts before the migrations")

    # Prometheus finds the services by these names.
    prometheus = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
    groups = prometheus["scrape_configs"] + prometheus["alerting"]["alertmanagers"]
    names = {name for group in groups for dns in group.get("dns_sd_configs", []) for name in dns["names"]}
    check({"coordinator", "worker", "alertmanager"} <= names <= set(config["services"]), f"Prometheus asks for {sorted(names)}")
    provisioning = "".join(path.read_text() for path in (ROOT / "monitoring" / "grafana" / "provisioning").rglob("*.yml"))
    asked = set(re.findall(r"(?:url|user|database|sslmode|password): \$([A-Z0-9_]+)", provisioning))
    given = set(config["services"]["grafana"]["environment"])
    check(asked and asked <= given, f"grafana lacks {sorted(asked - given)}")
    return result()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
