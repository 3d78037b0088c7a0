"""Whether the Helm chart makes what it should; `dev/chart` runs it with the tools it needs.

    check_chart.py HELM...        one or several programs, of several major versions

Each set of values in k8s/p2p/ci is linted and rendered by each Helm, twice; what is rendered is held against the
schemas of several Kubernetes versions, against own schemas of foreign kinds, and against what the objects
must be to each other. What must be refused is in ci/refused.yaml. Prints each thing that does not hold; exit 0
only if there is none.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

from checks import check, result

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "k8s" / "p2p"
MONITORING = ROOT / "monitoring"
# The oldest that the chart allows, what most clusters run, the newest known.
KUBERNETES = ["1.30", "1.34", "1.37"]
# Kinds that Kubernetes knows by itself; all others need a schema of ours.
OWN = json.loads((ROOT / "k8s" / "crd-schemas.json").read_text())
# What the drain of a worker takes besides the request, and that of a coordinator: docs/adr/0021.
WORKER_DRAIN, COORDINATOR_DRAIN = 45, 85
# Settings that the chart gives by itself or takes from secrets.
NOT_SETTABLE = {
    "DATABASE_URL", "OWNER_DATABASE_URL", "AMQP_URL", "RABBITMQ_MANAGEMENT_URL", "REDIS_URL",
    "EGRESS_PROXY_URL", "EGRESS_ID", "COORDINATOR_ID", "WORKER_ID", "STATUS_HOST", "STATUS_PORT",
    "PROMETHEUS_HOST", "OPS_TOKEN", "TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE",
}  # fmt: skip

# What Helm waits for hooks unless told otherwise.
HELM_TIMEOUT = 300
# Addresses that workers without a proxy have no business with.
PRIVATE = {
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "::/127", "64:ff9b::/96", "64:ff9b:1::/48", "fc00::/7", "fe80::/10",
}  # fmt: skip


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def render(helm, chart, values, name="demo", *more):
    done = run(helm, "template", name, str(chart), "--namespace", "prod", "--values", str(values), *more)
    return done.returncode, done.stdout, done.stderr


def objects(text):
    # Helm's own reader takes YAML 1.1 as PyYAML does.
    return [one for one in yaml.safe_load_all(text) if one]


def title(one):
    return f"{one['kind']} {one['metadata']['name']}"


def labels_of(one):
    return one["metadata"].get("labels", {})


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


# --- one object -----------------------------------------------------------------------------------


def check_schema(where, one):
    kind = f"{one['apiVersion']}/{one['kind']}"
    schema = OWN["kinds"].get(kind)
    if schema:
        errors = jsonschema.Draft202012Validator({**schema, "$defs": OWN["$defs"]}).iter_errors(one)
        found = [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]
        check(not found, f"{where}: {title(one)}: {'; '.join(found)}")
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(one, version, strict=True)
            problem = None
        except Exception as error:  # each of its kinds is a refusal
            problem = getattr(error, "message", str(error))
        check(problem is None, f"{where}: {title(one)} in Kubernetes {version}: {problem}")


def check_pod(where, one):
    """What the pod security standard `restricted` asks for, and more."""
    pod = one["spec"]["template"]["spec"]
    who = f"{where}: {title(one)}"
    security = pod.get("securityContext", {})
    check(security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0, f"{who} runs as root")
    check(security.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{who} has no seccomp profile")
    check(pod.get("automountServiceAccountToken") is False, f"{who} gets a token of Kubernetes")
    check(pod.get("enableServiceLinks") is False, f"{who} gets variables of other services")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        check(not pod.get(key), f"{who} has {key}")
    for container in pod["containers"]:
        own = container["securityContext"]
        check(own.get("allowPrivilegeEscalation") is False, f"{who} may gain privileges")
        check(not own.get("privileged"), f"{who} is privileged")
        check(own.get("readOnlyRootFilesystem") is True, f"{who} may write its root")
        check(own.get("capabilities") == {"drop": ["ALL"]}, f"{who} keeps capabilities")
        check("memory" in container["resources"].get("limits", {}), f"{who} has no limit of memory")
        check("cpu" in container["resources"].get("requests", {}), f"{who} requests no CPU")
        names = [variable["name"] for variable in container.get("env", [])]
        check(len(names) == len(set(names)), f"{who} has a variable twice: {names}")
        for variable in container.get("env", []):
            check(
                "value" not in variable or not re.search(r"://[^/]*:[^/]*@", str(variable["value"])),
                f"{who} has a password in {variable['name']}",
            )


# --- what objects are to each other ---------------------------------------------------------------


def check_together(where, made):
    by_kind = {}
    for one in made:
        by_kind.setdefault(one["kind"], []).append(one)
    names = [(one["kind"], one["metadata"]["name"]) for one in made]
    check(len(names) == len(set(names)), f"{where}: a name twice: {sorted(names)}")
    check(not by_kind.get("Secret"), f"{where}: a secret is made")
    configs = {one["metadata"]["name"] for one in by_kind.get("ConfigMap", [])}
    workloads = by_kind.get("Deployment", []) + by_kind.get("Job", [])
    pods = {title(one): one["spec"]["template"]["metadata"]["labels"] for one in workloads}

    for one in made:
        for key, value in labels_of(one).items():
            check(len(value) <= 63, f"{where}: {title(one)}: label {key} is too long")
        if one["kind"] in ("Service", "ScaledObject"):
            check(len(one["metadata"]["name"]) <= 63, f"{where}: {title(one)}: the name is too long")

    for one in workloads:
        check_pod(where, one)
        if one["kind"] == "Job":
            deadline = one["spec"]["activeDeadlineSeconds"]
            check(deadline < HELM_TIMEOUT, f"{where}: Helm does not wait for the {deadline} s of {title(one)}")
        is_hook = "helm.sh/hook" in one["metadata"].get("annotations", {})
        for container in one["spec"]["template"]["spec"]["containers"]:
            for source in container.get("envFrom", []):
                check(not is_hook, f"{where}: {title(one)} runs before the ConfigMap it reads")
                check(source["configMapRef"]["name"] in configs, f"{where}: {title(one)} reads a ConfigMap that nobody makes")

    deployments = {one["metadata"]["name"]: one for one in by_kind.get("Deployment", [])}
    for name, one in deployments.items():
        own = pods[title(one)]
        selector = one["spec"]["selector"]["matchLabels"]
        chosen = [who for who, labels in pods.items() if selects(selector, labels)]
        check(chosen == [title(one)], f"{where}: {title(one)} selects {chosen}")
        budgets = [b for b in by_kind.get("PodDisruptionBudget", []) if selects(b["spec"]["selector"]["matchLabels"], own)]
        check(len(budgets) == 1, f"{where}: {title(one)} has {len(budgets)} disruption budgets")
        pod = one["spec"]["template"]["spec"]
        for spread in pod["topologySpreadConstraints"]:
            check(spread["labelSelector"]["matchLabels"] == selector, f"{where}: {title(one)} is spread among others")
        container = pod["containers"][0]
        if any(port["name"] == "metrics" for port in container.get("ports", [])):
            paths = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness")]
            check(paths == ["/healthz", "/readyz"], f"{where}: {title(one)} is probed at {paths}")
            served = variables(one, made).get("PROMETHEUS_HOST")
            check(served in ("0.0.0.0", "::"), f"{where}: {title(one)} serves probes at {served}")
        check_grace(where, one, made)

    scaled = {}
    for one in by_kind.get("ScaledObject", []) + by_kind.get("HorizontalPodAutoscaler", []):
        target = one["spec"]["scaleTargetRef"]["name"]
        check(target not in scaled, f"{where}: {target} is scaled twice")
        scaled[target] = one
        check(target in deployments, f"{where}: {title(one)} scales {target}, which is not there")
        least = one["spec"].get("minReplicaCount", one["spec"].get("minReplicas"))
        check(least >= 1, f"{where}: {title(one)} goes to zero, and with it a share of the plan")
    for name, one in deployments.items():
        check((name in scaled) != ("replicas" in one["spec"]), f"{where}: {title(one)}: replicas and a scaler, or neither")
    authentications = {one["metadata"]["name"] for one in by_kind.get("TriggerAuthentication", [])}
    for one in by_kind.get("TriggerAuthentication", []):
        check_authentication(where, one, made, workloads)
    for one in by_kind.get("ScaledObject", []):
        check_trigger(where, one, authentications, made)

    for one in by_kind.get("Service", []):
        check(one["spec"].get("type", "ClusterIP") == "ClusterIP", f"{where}: {title(one)} leaves the cluster")
        chosen = [d for d in deployments.values() if selects(one["spec"]["selector"], pods[title(d)])]
        check(chosen, f"{where}: {title(one)} selects no pod")
        for port in one["spec"]["ports"]:
            for each in chosen:
                open_ports = {p["name"] for p in each["spec"]["template"]["spec"]["containers"][0]["ports"]}
                check(port["targetPort"] in open_ports, f"{where}: {title(each)} has no port {port['targetPort']}")
    for one in by_kind.get("ServiceMonitor", []):
        found = {
            labels_of(s)[one["spec"]["jobLabel"]]
            for s in by_kind.get("Service", [])
            if selects(one["spec"]["selector"]["matchLabels"], labels_of(s))
        }
        check(found == {"coordinator", "worker"}, f"{where}: {title(one)} makes the jobs {sorted(found)}")
        for endpoint in one["spec"]["endpoints"]:
            interval, timeout = (int(endpoint[key].removesuffix("s")) for key in ("interval", "scrapeTimeout"))
            check(timeout <= interval, f"{where}: {title(one)} waits {timeout} s for what it asks every {interval} s")
    if by_kind.get("NetworkPolicy"):
        check_policies(where, by_kind["NetworkPolicy"], pods)


def expanded(text, known):
    """As Kubernetes does with `value`: $(NAME) of a variable before it is what that holds, $$ is $."""
    found = lambda match: "$" if match[0] == "$$" else known.get(match[1], match[0])
    return re.sub(r"\$\$|\$\(([^)]*)\)", found, text)


def variables(one, made):
    """The environment of a deployment's container as Kubernetes puts it together."""
    container = one["spec"]["template"]["spec"]["containers"][0]
    configs = {o["metadata"]["name"]: o["data"] for o in made if o["kind"] == "ConfigMap"}
    found = {}
    for source in container.get("envFrom", []):
        found |= configs[source["configMapRef"]["name"]]
    for variable in container.get("env", []):
        is_given = "value" in variable
        found[variable["name"]] = expanded(variable["value"], found) if is_given else "of a secret"
    return found


def check_grace(where, one, made):
    pod = one["spec"]["template"]["spec"]
    grace = pod["terminationGracePeriodSeconds"]
    container = pod["containers"][0]
    stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if container["name"] == "worker":
        given = {v["name"]: v.get("value") for v in container["env"]}
        common = next(o for o in made if o["kind"] == "ConfigMap" and "demo" in o["metadata"]["name"] and "dashboard" not in o["metadata"]["name"])
        timeout = given.get("REQUEST_TIMEOUT_SECONDS") or common["data"].get("REQUEST_TIMEOUT_SECONDS", "30")
        needed = stop + int(timeout) + WORKER_DRAIN
    else:
        needed = stop + COORDINATOR_DRAIN
    check(grace >= needed, f"{where}: {title(one)} gets {grace} s to end and may need {needed}")


def check_trigger(where, one, authentications, made):
    for trigger in one["spec"]["triggers"]:
        meta = trigger["metadata"]
        who = f"{where}: {title(one)}"
        check(meta.get("protocol") == "http", f"{who}: by AMQP unacknowledged messages are not counted")
        check(meta.get("excludeUnacknowledged", "false") == "false", f"{who} leaves unacknowledged messages out")
        check(trigger["authenticationRef"]["name"] in authentications, f"{who} has no authentication")
        common = next(o for o in made if o["kind"] == "ConfigMap" and "INITIAL_RATE_LIMIT" in o["data"])
        prefix = common["data"].get("AMQP_PREFIX", "p2p")
        pattern = re.compile(meta["queueName"])
        found = [q for q in ("urgent", "normal", "low") if pattern.search(f"{prefix}.jobs.{q}")]
        check(found == ["urgent", "normal"], f"{who} counts the queues {found}")
        check(not pattern.search(f"{prefix}.reports") and not pattern.search(f"x{prefix}.jobs.normal"), f"{who} counts more")


def check_authentication(where, one, made, workloads):
    """KEDA trusts whom the programs trust, and shows the same certificate."""
    configs = {o["metadata"]["name"]: o["data"] for o in made if o["kind"] == "ConfigMap"}
    given = {ref["parameter"]: ref["key"] for ref in one["spec"]["secretTargetRef"]}
    for ref in one["spec"].get("configMapTargetRef", []):
        given[ref["parameter"]] = configs.get(ref["name"], {}).get(ref["key"])
    trusted = variables(next(o for o in workloads if o["kind"] == "Deployment"), made)
    files = {"ca": "TLS_CA_FILE", "cert": "TLS_CLIENT_CERT_FILE", "key": "TLS_CLIENT_KEY_FILE"}
    wanted = {parameter: trusted[name].rpartition("/")[2] for parameter, name in files.items() if name in trusted}
    if wanted:
        wanted["tls"] = "enable"
    check(given == {"host": "RABBITMQ_MANAGEMENT_URL", **wanted}, f"{where}: {title(one)} gives {given}")


def check_policies(where, policies, pods):
    for who, labels in pods.items():
        own = [p for p in policies if selects(p["spec"]["podSelector"]["matchLabels"], labels)]
        check(len(own) == 1, f"{where}: {who} has {len(own)} network policies")
        for policy in own:
            spec = policy["spec"]
            check(sorted(spec["policyTypes"]) == ["Egress", "Ingress"], f"{where}: {title(policy)} forbids one way only")
            ports = {port["port"] for rule in spec["egress"] for port in rule["ports"]}
            check(all(rule.get("ports") for rule in spec["egress"]), f"{where}: {title(policy)} allows all ports")
            check(53 in ports and 5432 in ports, f"{where}: {title(policy)} has no way to DNS or PostgreSQL")
            component = labels["app.kubernetes.io/component"]
            if component != "worker":
                check(443 not in ports and 6379 not in ports, f"{where}: {title(policy)}: a {component} may reach the exchange or Redis")
            if component == "migrate":
                check(ports == {53, 5432}, f"{where}: {title(policy)} allows {sorted(ports)}")
            for rule in spec.get("ingress", []):
                check(rule.get("from"), f"{where}: {title(policy)} lets everybody in")
            for rule in spec["egress"]:
                if any(port["port"] == 443 for port in rule["ports"]):
                    excepts = {cidr for to in rule.get("to", []) for cidr in to.get("ipBlock", {}).get("except", [])}
                    check(not PRIVATE - excepts, f"{where}: {title(policy)} reaches private addresses: {sorted(PRIVATE - excepts)}")


# --- one copy of rules and dashboards -------------------------------------------------------------


NAMESPACE = 'namespace="prod"'
METRIC = re.compile(r"\b(p2p[_:][a-z0-9_:]*|up)\b(?!:)")


def without_namespace(spec):
    """The rules of a namespace as those of all."""
    spec = json.loads(json.dumps(spec))
    for rule in (rule for group in spec["groups"] for rule in group["rules"]):
        rule["expr"] = rule["expr"].replace("{" + NAMESPACE + "}", "").replace(NAMESPACE + ",", "")
        rule["labels"].pop("namespace", None)
        if not rule["labels"]:
            del rule["labels"]
    return spec


def check_namespace(where, one):
    """No rule asks for metrics of another namespace; and all tests of the rules hold beside one where all is well."""
    for rule in (rule for group in one["spec"]["groups"] for rule in group["rules"]):
        name = rule.get("alert") or rule["record"]
        for metric in METRIC.finditer(rule["expr"]):
            after = rule["expr"][metric.end() :]
            check(after.startswith("{" + NAMESPACE), f"{where}: {name} asks for {metric[0]} of all namespaces")
        check(rule["labels"].get("namespace") == "prod", f"{where}: {name} does not say of which namespace it is")
    elsewhere = [
        {"series": 'p2p_leader{job="coordinator",instance="x",namespace="other"}', "values": "1x1000"},
        {"series": 'up{job="coordinator",instance="x",namespace="other"}', "values": "1x1000"},
        {"series": 'up{job="worker",instance="y",namespace="other"}', "values": "1x1000"},
        {"series": 'p2p_database_up{job="coordinator",instance="x",namespace="other"}', "values": "1x1000"},
    ]
    named = lambda series: series.replace("{", "{" + NAMESPACE + ",", 1) if "{" in series else series + "{" + NAMESPACE + "}"
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "rules.yml").write_text(yaml.safe_dump(one["spec"]))
        for file in sorted((MONITORING / "prometheus" / "tests").glob("*.yml")):
            tests = {**yaml.safe_load(file.read_text()), "rule_files": ["rules.yml"]}
            for test in tests["tests"]:
                test["input_series"] = [{**s, "series": named(s["series"])} for s in test.get("input_series", [])] + elsewhere
                for alert in (a for t in test.get("alert_rule_test", []) for a in t.get("exp_alerts", [])):
                    alert["exp_labels"]["namespace"] = "prod"
                for sample in (s for t in test.get("promql_expr_test", []) for s in t.get("exp_samples", [])):
                    if "labels" in sample:
                        sample["labels"] = named(sample["labels"])
            copy = pathlib.Path(folder) / file.name
            copy.write_text(yaml.safe_dump(tests))
            done = run("promtool", "test", "rules", str(copy))
            check(done.returncode == 0, f"{where}: {title(one)}: {file.name}: {(done.stdout + done.stderr)[:2000]}")


def check_copies(where, made):
    for one in made:
        if one["kind"] == "PrometheusRule":
            name = one["metadata"]["name"].split("-")[-1]
            file = MONITORING / "prometheus" / "rules" / f"{name}.yml"
            check(file.exists() and without_namespace(one["spec"]) == yaml.safe_load(file.read_text()), f"{where}: {title(one)} is not {file}")
            with tempfile.NamedTemporaryFile("w", suffix=".yml") as rules:
                yaml.safe_dump(one["spec"], rules)
                rules.flush()
                done = run("promtool", "check", "rules", rules.name)
                check(done.returncode == 0, f"{where}: {title(one)}: {done.stdout}{done.stderr}")
            check_namespace(where, one)
        if one["kind"] == "ConfigMap" and "datasource" in one["metadata"]["name"]:
            for name, text in one["data"].items():
                file = MONITORING / "grafana" / "provisioning" / "datasources" / name
                own = text.replace("isDefault: false", "isDefault: true")
                check(file.exists() and own == file.read_text() != text, f"{where}: {title(one)} is not {file}")
        if one["kind"] == "ConfigMap" and "dashboard" in one["metadata"]["name"]:
            for name, text in one["data"].items():
                file = MONITORING / "grafana" / "dashboards" / name
                check(file.exists() and text == file.read_text(), f"{where}: {title(one)} is not {file}")
                dashboard = json.loads(text)
                check(dashboard.get("uid") and dashboard.get("panels"), f"{where}: {name} is no dashboard")
    if where.endswith("full"):
        kinds = [one["kind"] for one in made]
        rules = len(list((MONITORING / "prometheus" / "rules").glob("*.yml")))
        boards = len(list((MONITORING / "grafana" / "dashboards").glob("*.json")))
        check(rules and kinds.count("PrometheusRule") == rules, f"{where}: not all rules: {rules}")
        found = sum("dashboard" in one["metadata"]["name"] for one in made)
        check(boards and found == boards, f"{where}: {found} dashboards of {boards}")
        check(any("datasource" in one["metadata"]["name"] for one in made), f"{where}: no data source")


# --- settings -------------------------------------------------------------------------------------


def settings_of_programs():
    """Those of coordinator and worker, by .env.example; a test of the programs holds that to be complete."""
    names, tags = set(), ""
    for line in (ROOT / ".env.example").read_text().splitlines():
        if line.startswith("# --- Docker Compose only"):
            break
        if tagged := re.match(r"# \[([CWP ]+)\]", line):
            tags = tagged.group(1)
        elif (setting := re.match(r"#?([A-Z][A-Z0-9_]*)=", line)) and {"C", "W"} & set(tags):
            names.add(setting.group(1))
    return names


def check_settings():
    schema = json.loads((CHART / "values.schema.json").read_text())
    ours = set(schema["properties"]["settings"]["properties"])
    theirs = settings_of_programs() - NOT_SETTABLE
    check(ours == theirs, f"settings of values.schema.json: missing {sorted(theirs - ours)}, unknown {sorted(ours - theirs)}")
    forbidden = set(schema["properties"]["extraEnv"]["propertyNames"]["not"]["enum"])
    check(forbidden >= ours | NOT_SETTABLE, f"extraEnv may set {sorted((ours | NOT_SETTABLE) - forbidden)}")
    secrets = {name for name in settings_of_programs() if name.endswith(("TOKEN", "PASSWORD", "SECRET", "KEY"))}
    check(not secrets & ours, f"settings are readable by all, and may hold {sorted(secrets & ours)}")


def check_images(where, made, values):
    """Each runs its own image before the common one; migrations, which the newest program needs, the common one."""
    given = yaml.safe_load(values.read_text())
    common = given.get("image", {})
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    for one in made:
        if one["kind"] not in ("Deployment", "Job"):
            continue
        part = {"coordinator": "coordinator", "worker": "workers"}.get(labels_of(one)["app.kubernetes.io/component"])
        own = given.get(part, {}).get("image") or common
        tail = f"@{own['digest']}" if own.get("digest") else f":{own.get('tag') or version}"
        wanted = common.get("repository", "p2p-market-data") + tail
        image = one["spec"]["template"]["spec"]["containers"][0]["image"]
        check(image == wanted, f"{where}: {title(one)} runs {image}, not {wanted}")


def check_hostile(where, made, values):
    """Each value arrives as it is."""
    given = yaml.safe_load(values.read_text())
    common = next(one for one in made if one["kind"] == "ConfigMap" and "FIATS" in one["data"])
    as_text = lambda value: json.dumps(value) if isinstance(value, (bool, int, float)) else value
    for name, value in {**given["settings"], **given["extraEnv"]}.items():
        check(common["data"].get(name) == as_text(value), f"{where}: {name} arrived as {common['data'].get(name)!r}")
    worker = next(one for one in made if one["kind"] == "Deployment" and "worker" in one["metadata"]["name"])
    template = worker["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    for name, value in given["podAnnotations"].items():
        check(annotations.get(name) == value, f"{where}: the annotation {name} arrived as {annotations.get(name)!r}")
    check("injected" not in annotations, f"{where}: an annotation was injected")
    own = variables(worker, made)
    for name, value in given["workers"]["groups"]["default"]["settings"].items():
        check(own.get(name) == as_text(value), f"{where}: {name} of the group arrived as {own.get(name)!r}")
    scaler = next(one for one in made if one["kind"] == "ScaledObject")
    check(scaler["spec"]["triggers"][0]["metadata"]["vhostName"] == given["autoscaling"]["keda"]["vhost"], f"{where}: the vhost is another")


# --- all together ---------------------------------------------------------------------------------


def check_refused(helm, where):
    for case in yaml.safe_load((CHART / "ci" / "refused.yaml").read_text()):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
            json.dump(case["values"], values)
            values.flush()
            code, _, said = render(helm, CHART, values.name)
        short = json.dumps(case["values"])[:100]
        check(code != 0, f"{where}: {short} is not refused")
        check(code == 0 or case["says"] in said, f"{where}: {short} is refused without {case['says']!r}: {said[:500]}")


def main(helms):
    check_settings()
    same = {}
    value_sets = sorted(path for path in (CHART / "ci").glob("*.yaml") if path.stem != "refused")
    check(len(value_sets) >= 5, "sets of values are missing")
    for helm in helms:
        version = run(helm, "version", "--short").stdout.strip().split("+")[0]
        for values in value_sets:
            where = f"helm {version} {values.stem}"
            lint = run(helm, "lint", "--strict", str(CHART), "--values", str(values))
            check(lint.returncode == 0, f"{where}: lint: {lint.stdout[-1000:]}")
            code, text, said = render(helm, CHART, values)
            check(code == 0, f"{where}: {said[-1000:]}")
            if code:
                continue
            check(render(helm, CHART, values)[1] == text, f"{where}: rendered twice it differs")
            made = objects(text)
            check(made, f"{where}: nothing is made")
            for one in made:
                check_schema(where, one)
            check_together(where, made)
            check_copies(where, made)
            check_images(where, made, values)
            if values.stem == "hostile":
                check_hostile(where, made, values)
            in_order = sorted(made, key=title)
            check(same.setdefault(values.stem, in_order) == in_order, f"{where}: another Helm makes something else")
        # Names stay legal, and of different releases different, however long they are.
        long_names = []
        for release in ("a" * 53, "a" * 52 + "b"):
            code, text, said = render(helm, CHART, CHART / "ci" / "full.yaml", release)
            check(code == 0, f"helm {version}: release {release}: {said[-500:]}")
            made = objects(text) if code == 0 else []
            for one in made:
                check_schema(f"helm {version} release {release}", one)
                check(all(len(v) <= 63 for v in labels_of(one).values()), f"helm {version}: {title(one)}: a label is too long")
                check(one["kind"] not in ("Service", "ScaledObject") or len(one["metadata"]["name"]) <= 63, f"{title(one)} is too long")
            long_names.append({title(one) for one in made if one["kind"] == "Deployment"})
        check(not long_names[0] & long_names[1], f"helm {version}: two releases share names: {long_names}")
        # As it is published: the links of files/ become files.
        with tempfile.TemporaryDirectory() as folder:
            packed = run(helm, "package", str(CHART), "--destination", folder)
            check(packed.returncode == 0, f"helm {version}: package: {packed.stderr}")
            for archive in pathlib.Path(folder).glob("*.tgz"):
                ours = render(helm, CHART, CHART / "ci" / "full.yaml")[1]
                check(render(helm, archive, CHART / "ci" / "full.yaml")[1] == ours, f"helm {version}: the package makes something else")
        check_refused(helm, f"helm {version}")
    return result()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
