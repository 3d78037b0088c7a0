{{/* At most 34 characters, so that the longest name made of it, a worker group's, fits a label. */}}
{{- define "p2p.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- if gt (len $name) 34 -}}
{{- printf "%s-%s" ($name | trunc 25 | trimSuffix "-") ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- define "p2p.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "p2p.labels" -}}
{{ include "p2p.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* dict "root" $ "own" what goes before the common tag and digest */}}
{{- define "p2p.image" -}}
{{- $common := .root.Values.image -}}
{{- $own := .own | default dict -}}
{{- $chosen := empty (or $own.tag $own.digest) | ternary $common $own -}}
{{- if $chosen.digest -}}
{{ printf "%s@%s" $common.repository $chosen.digest | quote }}
{{- else -}}
{{ printf "%s:%s" $common.repository ($chosen.tag | default .root.Chart.AppVersion) | quote }}
{{- end -}}
{{- end -}}

{{/* What every pod has. No service links: they would put variables of unrelated services into the environment. */}}
{{- define "p2p.podDefaults" -}}
serviceAccountName: {{ .Values.serviceAccountName }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tls.existingSecret }}
volumes:
  - name: tls
    secret:
      secretName: {{ . }}
      # Read by the group that pods run as.
      defaultMode: 0444
{{- end }}
{{- end -}}

{{/* dict "root" $ "own" .Values.workers.image */}}
{{- define "p2p.containerDefaults" -}}
image: {{ include "p2p.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- if .root.Values.tls.existingSecret }}
volumeMounts:
  - name: tls
    mountPath: /etc/p2p/tls
    readOnly: true
{{- end }}
{{- end -}}

{{/* Variables from the secret: dict "root" $ "needed" (list ...) "optional" (list ...) */}}
{{- define "p2p.secretVariables" -}}
{{- range .needed }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.root.Values.connections.existingSecret }}
      key: {{ . }}
{{- end }}
{{- range .optional }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.root.Values.connections.existingSecret }}
      key: {{ . }}
      optional: true
{{- end }}
{{- end -}}

{{/* Where the files of the secret for TLS are. */}}
{{- define "p2p.tlsVariables" -}}
{{- with .Values.tls }}
{{- if .existingSecret }}
{{- if ne (empty .certificate) (empty .key) }}
{{- fail "tls: certificate and key, or neither" }}
{{- end }}
{{- range $name, $file := dict "TLS_CA_FILE" .ca "TLS_CLIENT_CERT_FILE" .certificate "TLS_CLIENT_KEY_FILE" .key }}
{{- if $file }}
- name: {{ $name }}
  value: {{ printf "/etc/p2p/tls/%s" $file | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Who may read what the programs serve. */}}
{{- define "p2p.opsToken" -}}
- name: OPS_TOKEN
{{- if .Values.opsToken.secret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.opsToken.secret }}
      key: {{ .Values.opsToken.key }}
{{- else }}
{{- if and (not .Values.networkPolicy.enabled) (or .Values.status.service (include "p2p.hasMetrics" .)) }}
{{- fail "networkPolicy.enabled is false, so everybody in the cluster could read metrics and status page: opsToken.secret is needed" }}
{{- end }}
  value: none
{{- end }}
{{- end -}}

{{/* Helm reads numbers as floats and would print a large one as 1e+06. */}}
{{- define "p2p.settingText" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* "true" unless metrics, and health with them, are switched off. */}}
{{- define "p2p.hasMetrics" -}}
{{- if ne (toString .Values.settings.ENABLE_METRICS) "false" -}}true{{- end -}}
{{- end -}}

{{- define "p2p.metricsPort" -}}
{{- .Values.settings.PROMETHEUS_PORT | default 9090 | int -}}
{{- end -}}

{{/* Liveness is about the program only; servers that are away are no reason to start it again. */}}
{{- define "p2p.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end -}}

{{/* Spread over nodes and zones: dict "root" $ "labels" "component: ..." */}}
{{- define "p2p.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $.root.Values.spread }}
    labelSelector:
      matchLabels:
        {{- include "p2p.selectorLabels" $.root | nindent 8 }}
        {{- $.labels | nindent 8 }}
    # Pods of the version that goes don't count, or the new ones would crowd where the old ones are not.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end -}}

{{/* A rule of a network policy: dict "ports" "to" or "from" */}}
{{- define "p2p.egress" -}}
- ports:
    {{- range .ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "p2p.dnsEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "p2p.checksum" -}}
{{- toJson (list .root.Values.settings .root.Values.extraEnv .root.Values.bindHost .more) | sha256sum -}}
{{- end -}}

{{/* What the programs refuse of settings that are allowed each alone: pods with them would never start. What is not
given has the programs' default. */}}
{{- define "p2p.validate" -}}
{{- $settings := .Values.settings -}}
{{- $interval := dig "EXTRACTION_INTERVAL_MINUTES" 10 $settings | int -}}
{{- if mod 1440 $interval -}}
{{- fail (printf "settings.EXTRACTION_INTERVAL_MINUTES=%d: allowed are divisors of a day's 1440 minutes" $interval) -}}
{{- end -}}
{{- range $name, $default := dict "BATCH_DEADLINE_SECONDS" 480 "MISFIRE_GRACE_SECONDS" 120 -}}
{{- $seconds := dig $name $default $settings | int -}}
{{- if ge $seconds (mul 60 $interval | int) -}}
{{- fail (printf "settings.%s=%d: allowed is less than EXTRACTION_INTERVAL_MINUTES=%d" $name $seconds $interval) -}}
{{- end -}}
{{- end -}}
{{- $facts := dig "RETENTION_FACTS_DAYS" 35 $settings | int -}}
{{- range $name, $default := dict "RETENTION_RAW_DAYS" (min $facts 7) "RETENTION_QUARANTINE_DAYS" (min $facts 35) -}}
{{- $days := dig $name $default $settings | int -}}
{{- if gt $days $facts -}}
{{- fail (printf "settings.%s=%d: allowed is no more than RETENTION_FACTS_DAYS=%d" $name $days $facts) -}}
{{- end -}}
{{- end -}}
{{- $marts := dig "RETENTION_MARTS_DAYS" (max $facts 1095) $settings | int -}}
{{- if lt $marts $facts -}}
{{- fail (printf "settings.RETENTION_MARTS_DAYS=%d: allowed is no less than RETENTION_FACTS_DAYS=%d" $marts $facts) -}}
{{- end -}}
{{- range $group, $values := .Values.workers.groups -}}
{{- $own := merge dict ($values.settings | default dict) $settings -}}
{{- $least := dig "MIN_RATE_LIMIT" 10 $own | int -}}
{{- $first := dig "INITIAL_RATE_LIMIT" 100 $own | int -}}
{{- $most := dig "MAX_RATE_LIMIT" 200 $own | int -}}
{{- if or (lt $first $least) (gt $first $most) -}}
{{- fail (printf "workers.groups.%s: INITIAL_RATE_LIMIT=%d: allowed are MIN_RATE_LIMIT=%d to MAX_RATE_LIMIT=%d" $group $first $least $most) -}}
{{- end -}}
{{- end -}}
{{- if and (include "p2p.hasMetrics" .) (eq (int .Values.status.port) (include "p2p.metricsPort" . | int)) -}}
{{- fail (printf "status.port=%d: allowed is another than settings.PROMETHEUS_PORT" (int .Values.status.port)) -}}
{{- end -}}
{{- end -}}
