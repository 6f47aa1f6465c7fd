{{/* What all pods have alike. Called with (dict "root" $ "name" NAME). */}}

{{- define "auscult.labels" -}}
app.kubernetes.io/name: auscult
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "auscult.pod" -}}
serviceAccountName: {{ .root.Release.Name }}
automountServiceAccountToken: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
terminationGracePeriodSeconds: 60
{{- end }}

{{- define "auscult.container" -}}
image: "{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [{{ .name }}]
envFrom:
  - configMapRef: {name: {{ .root.Release.Name }}}
env:
  - {name: AUSCULT_HOME, value: /var/lib/auscult}
  - {name: AUSCULT_IMAGE_STORE, value: /images}
  - {name: AUSCULT_MODEL_REPOSITORY, value: /models}
  # Freed memory stays in the process: fresh pages for each volume cost more than sending it.
  - {name: MALLOC_TRIM_THRESHOLD_, value: "1000000000"}
  - {name: MALLOC_MMAP_THRESHOLD_, value: "1000000000"}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
readinessProbe:
  exec: {command: [test, -e, /var/lib/auscult/run/{{ .name }}.ready]}
  periodSeconds: 5
{{- end }}

{{- define "auscult.mounts" -}}
- {name: home, mountPath: /var/lib/auscult}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "auscult.volumes" -}}
- {name: home, emptyDir: {}}
- {name: tmp, emptyDir: {}}
{{- end }}
