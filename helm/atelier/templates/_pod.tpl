{{- /*
The pod of a gateway, of a group of workers or of a code worker.
root, component, group; command: the program's; part: the values of this part; env: more variables, as text;
code: whether what people wrote runs in it; prestop: seconds; grace: seconds; account: its service account
*/ -}}
{{- define "atelier.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
metadata:
  labels: {{- include "atelier.labels" . | nindent 4 }}
  annotations:
    checksum/config: {{ include (print $root.Template.BasePath "/configmap.yaml") $root | sha256sum }}
    {{- with .part.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .account }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .grace }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .code }}
  {{- with $values.code.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if not $values.code.hostUsers }}
  hostUsers: false
  {{- end }}
  {{- end }}
  securityContext: {{- include (ternary "atelier.codePodSecurity" "atelier.podSecurity" (not (empty .code))) $root | nindent 4 }}
  {{- include "atelier.spread" . | nindent 2 }}
  {{- with include "atelier.placement" .part }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "atelier.image" (dict "root" $root "override" .part.image) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [{{ .command }}]
      ports:
        - {name: http, containerPort: 8000}
      envFrom:
        - configMapRef: {name: {{ include "atelier.fullname" $root }}}
        {{- with $values.files.credentialsSecret }}
        - secretRef: {name: {{ . }}}
        {{- end }}
      env:
        {{- include "atelier.storeEnv" $root | nindent 8 }}
        {{- with .env }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .part.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- include "atelier.probes" . | nindent 6 }}
      {{- with .prestop }}
      lifecycle:
        preStop:
          exec: {command: [sleep, {{ . | quote }}]}
      {{- end }}
      resources: {{- toYaml .part.resources | nindent 8 }}
      securityContext: {{- include (ternary "atelier.codeContainerSecurity" "atelier.containerSecurity" (not (empty .code))) $root | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $values.files.existingClaim }}
        - {name: files, mountPath: {{ trimPrefix "file://" $values.files.url }}}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- with $values.files.existingClaim }}
    - name: files
      persistentVolumeClaim: {claimName: {{ . }}}
    {{- end }}
{{- end -}}

{{- define "atelier.codePodSecurity" -}}
{{- if .Values.code.ownHostUsers -}}
runAsNonRoot: false
runAsUser: 0
runAsGroup: 0
{{- else -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
{{- end }}
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: {{ .Values.code.seccompProfile.type }}
  {{- if eq .Values.code.seccompProfile.type "Localhost" }}
  localhostProfile: {{ .Values.code.seccompProfile.localhostProfile }}
  {{- end }}
{{- end -}}

{{- define "atelier.codeContainerSecurity" -}}
{{- if .Values.code.ownHostUsers -}}
runAsNonRoot: false
{{- /* The kernel's rights here reach the pod's own user namespace and no further. */}}
allowPrivilegeEscalation: true
capabilities: {drop: [ALL], add: [SYS_ADMIN, SETUID, SETGID, CHOWN, KILL]}
{{- else -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}
readOnlyRootFilesystem: true
{{- with .Values.code.procMount }}
procMount: {{ . }}
{{- end }}
{{- end -}}
