// Package chart_test renders the chart with Helm's own engine, which needs no cluster, and looks at what it makes.
package chart_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/yaml"
)

const chartFolder = "../aikeys"

// render returns the objects that the chart makes, by kind and name, or what Helm says against the values.
func render(t *testing.T, values string) (map[string]map[string]any, error) {
	t.Helper()
	chart, err := loader.Load(chartFolder)
	if err != nil {
		t.Fatal(err)
	}
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(chart, given, chartutil.ReleaseOptions{Name: "prod", Namespace: "ai", IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	objects := map[string]map[string]any{}
	for _, text := range files {
		for _, document := range strings.Split(text, "\n---\n") {
			var object map[string]any
			if err := yaml.Unmarshal([]byte(document), &object); err != nil {
				t.Fatalf("%v in:\n%s", err, document)
			}
			if len(object) > 0 {
				name, _ := at(object, "metadata", "name").(string)
				objects[object["kind"].(string)+" "+name] = object
			}
		}
	}
	return objects, nil
}

// at returns what is at a path of names; a list stands for its first element.
func at(value any, path ...string) any {
	for _, name := range path {
		if list, isList := value.([]any); isList && len(list) > 0 {
			value = list[0]
		}
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}

// everything are values that switch on all that the chart can make.
const everything = `
image: {tag: 1.2.3, pullSecrets: [registry]}
aikeysd: {settings: {AIKEYS_OIDC_ISSUER: https://login.example.com}, service: {type: LoadBalancer, annotations: {a: b}}}
gateway: {controlPlaneCA: ca, settings: {AIKEYS_GATEWAY_MAX_STALE: 5s}}
networkPolicy:
  callers: [{ipBlock: {cidr: 10.0.0.0/8}}]
  dataPlanes: [{namespaceSelector: {matchLabels: {team: edge}}}]
  monitoring: [{namespaceSelector: {matchLabels: {name: monitoring}}}]
podAnnotations: {a: b}
nodeSelector: {disk: ssd}
tolerations: [{key: dedicated, operator: Exists}]
priorityClassName: high
`

func TestChartMakesEveryObject(t *testing.T) {
	for name, values := range map[string]string{"defaults": "{}", "everything": everything} {
		objects, err := render(t, values)
		if err != nil {
			t.Fatal(name, err)
		}
		for _, want := range []string{
			"Deployment prod-aikeys", "Service prod-aikeys", "Service prod-aikeys-dataplane", "PodDisruptionBudget prod-aikeys",
			"NetworkPolicy prod-aikeys", "Deployment prod-aikeys-gateway", "Service prod-aikeys-gateway",
			"PodDisruptionBudget prod-aikeys-gateway", "NetworkPolicy prod-aikeys-gateway", "ServiceAccount prod-aikeys",
		} {
			if objects[want] == nil {
				t.Errorf("%s: there is no %s", name, want)
			}
		}
		if folder := os.Getenv("RENDERED"); folder != "" { // for the check against Kubernetes' own schemas
			for object, content := range objects {
				text, err := json.Marshal(content)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(folder, name+"-"+strings.ReplaceAll(object, " ", "-")+".yaml")
				if err := os.WriteFile(file, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func TestChartConfinesPodsAndHoldsNoSecret(t *testing.T) {
	objects, err := render(t, everything)
	if err != nil {
		t.Fatal(err)
	}
	for name, object := range objects {
		if object["kind"] == "Secret" {
			t.Errorf("%s: the chart makes no Secret", name)
		}
		if object["kind"] != "Deployment" {
			continue
		}
		pod := at(object, "spec", "template", "spec")
		for _, is := range []struct {
			want any
			path []string
		}{
			{false, []string{"automountServiceAccountToken"}},
			{false, []string{"enableServiceLinks"}},
			{true, []string{"securityContext", "runAsNonRoot"}},
			{"RuntimeDefault", []string{"securityContext", "seccompProfile", "type"}},
			{false, []string{"containers", "securityContext", "allowPrivilegeEscalation"}},
			{true, []string{"containers", "securityContext", "readOnlyRootFilesystem"}},
			{"/healthz", []string{"containers", "livenessProbe", "httpGet", "path"}},
			{"/readyz", []string{"containers", "readinessProbe", "httpGet", "path"}},
		} {
			if got := at(pod, is.path...); got != is.want {
				t.Errorf("%s: %v is %v, not %v", name, is.path, got, is.want)
			}
		}
		volumes, _ := at(pod, "volumes").([]any)
		for _, volume := range volumes { // the programs refuse files with other modes
			if secret := at(volume, "secret"); secret != nil && at(secret, "defaultMode") != float64(0o400) {
				t.Errorf("%s: %v", name, volume)
			}
		}
	}
	if got := at(objects["Service prod-aikeys-dataplane"], "spec", "type"); got != "ClusterIP" {
		t.Errorf("the data planes' Service is a %v", got)
	}
}

func TestChartAdmitsGatewaysAloneToTheDataPlanesAPI(t *testing.T) {
	for values, want := range map[string]int{"{}": 1, "gateway: {enabled: false}": 0, everything: 2} {
		objects, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		rules, _ := at(objects["NetworkPolicy prod-aikeys"], "spec", "ingress").([]any)
		admitted := 0
		for _, rule := range rules {
			if at(rule, "ports", "port") == "dataplane" {
				from, _ := at(rule, "from").([]any)
				if admitted = len(from); admitted == 0 {
					t.Error("everybody is admitted")
				}
			}
		}
		if admitted != want {
			t.Errorf("%s: %d peers are admitted, not %d", values, admitted, want)
		}
	}
}

func TestChartRefusesWrongValues(t *testing.T) {
	for values, says := range map[string]string{
		"aikeysd: {replica: 3}":                                       "replica",
		"aikeysd: {databaseSecret: ''}":                               "databaseSecret",
		"aikeysd: {settings: {AIKEYS_GATEWAY_LISTEN: ':1'}}":          "AIKEYS_GATEWAY_LISTEN",
		"aikeysd: {enabled: false}":                                   "gateway.controlPlane",
		"aikeysd: {enabled: false}\ngateway: {controlPlane: 'http:'}": "controlPlane",
		"secrets: {token: abc}":                                       "secrets",
	} {
		if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", values, err)
		}
	}
	if _, err := render(t, "aikeysd: {enabled: false}\ngateway: {controlPlane: 'https://keys.example.com'}"); err != nil {
		t.Error(err)
	}
}
