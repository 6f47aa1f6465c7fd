{{/* What all pods have alike. Called with (dict "root" $ "name" NAME), and "models" true where they read models. */}}

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
  {{- if and .models .root.Values.modelRepository.s3.url .root.Values.modelRepository.s3.credentialsSecret }}
  - secretRef: {name: {{ .root.Values.modelRepository.s3.credentialsSecret }}}
  {{- end }}
  {{- if and .images .root.Values.imageStore.s3.url .root.Values.imageStore.s3.credentialsSecret }}
  - secretRef: {name: {{ .root.Values.imageStore.s3.credentialsSecret }}}
  {{- end }}
env:
  {{- if ne .name "inference" }}
  {{- with .root.Values.kafka }}
  {{- if .passwordSecret }}
  - {name: AUSCULT_KAFKA_SASL_PASSWORD_FILE, value: /kafka-password/password}
  {{- end }}
  {{- if .tlsSecret }}
  - {name: AUSCULT_KAFKA_TLS_CA, value: /kafka-tls/ca.crt}
  {{- if .clientCertificate }}
  - {name: AUSCULT_KAFKA_TLS_CERT, value: /kafka-tls/tls.crt}
  - {name: AUSCULT_KAFKA_TLS_KEY, value: /kafka-tls/tls.key}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- if .images }}
  {{- with .root.Values.pacs }}
  {{- if .authorizationSecret }}
  - {name: AUSCULT_PACS_AUTHORIZATION_FILE, value: /pacs-authorization/authorization}
  {{- end }}
  {{- if .tlsSecret }}
  - {name: AUSCULT_PACS_TLS_CA, value: /pacs-tls/ca.crt}
  {{- if .clientCertificate }}
  - {name: AUSCULT_PACS_TLS_CERT, value: /pacs-tls/tls.crt}
  - {name: AUSCULT_PACS_TLS_KEY, value: /pacs-tls/tls.key}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- end }}
  - {name: AUSCULT_HOME, value: /var/lib/auscult}
  - {name: AUSCULT_IMAGE_STORE, value: {{ .root.Values.imageStore.s3.url | default "/images" | quote }}}
  - {name: AUSCULT_IMAGE_CACHE, value: /images}
  - {name: AUSCULT_HL7_STORE, value: /images/.hl7}
  - {name: AUSCULT_MODEL_REPOSITORY, value: {{ .root.Values.modelRepository.s3.url | default "/models" | quote }}}
  - {name: AUSCULT_MODEL_CACHE, value: /models}
  {{- with .env }}
  {{- . | nindent 2 }}
  {{- end }}
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
{{- if ne .name "inference" }}
{{- with .root.Values.kafka }}
{{- if .passwordSecret }}
- {name: kafka-password, mountPath: /kafka-password, readOnly: true}
{{- end }}
{{- if .tlsSecret }}
- {name: kafka-tls, mountPath: /kafka-tls, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
{{- if .images }}
- {name: images, mountPath: /images}
{{- with .root.Values.pacs }}
{{- if .authorizationSecret }}
- {name: pacs-authorization, mountPath: /pacs-authorization, readOnly: true}
{{- end }}
{{- if .tlsSecret }}
- {name: pacs-tls, mountPath: /pacs-tls, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
{{- if .models }}
- {name: models, mountPath: /models, readOnly: {{ empty .root.Values.modelRepository.s3.url }}}
{{- end }}
{{- end }}

{{- define "auscult.volumes" -}}
- {name: home, emptyDir: {}}
- {name: tmp, emptyDir: {}}
{{- if ne .name "inference" }}
{{- with .root.Values.kafka }}
{{- if .passwordSecret }}
- {name: kafka-password, secret: {secretName: {{ .passwordSecret }}}}
{{- end }}
{{- if .tlsSecret }}
- {name: kafka-tls, secret: {secretName: {{ .tlsSecret }}}}
{{- end }}
{{- end }}
{{- end }}
{{- if .images }}
{{- if .root.Values.imageStore.s3.url }}
- {name: images, emptyDir: {sizeLimit: {{ .root.Values.imageStore.s3.cacheSize }}}}
{{- else }}
- {name: images, persistentVolumeClaim: {claimName: {{ .root.Release.Name }}-images}}
{{- end }}
{{- with .root.Values.pacs }}
{{- if .authorizationSecret }}
- {name: pacs-authorization, secret: {secretName: {{ .authorizationSecret }}}}
{{- end }}
{{- if .tlsSecret }}
- {name: pacs-tls, secret: {secretName: {{ .tlsSecret }}}}
{{- end }}
{{- end }}
{{- end }}
{{- if .models }}
{{- with .root.Values.modelRepository }}
{{- if not .s3.url }}
- {name: models, persistentVolumeClaim: {claimName: {{ .existingClaim }}, readOnly: true}}
{{- else if .s3.cacheClaim }}
- {name: models, persistentVolumeClaim: {claimName: {{ .s3.cacheClaim }}}}
{{- else }}
- {name: models, emptyDir: {}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
