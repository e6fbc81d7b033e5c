// Command check reads the manifests of the folder deploy as Kubernetes and Compose
// do, and fails if they have unknown fields, or refer to names that do not exist.
//
//	go run . ..
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	folder := "."
	if len(os.Args) > 1 {
		folder = os.Args[1]
	}
	err := errors.Join(kubernetes(filepath.Join(folder, "kubernetes.yaml")), compose(filepath.Join(folder, "compose.yaml")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// objects are those of a file that others refer to, by kind and name, and the
// workload.
type objects struct {
	named    map[string]bool
	workload *apps.StatefulSet
	service  *core.Service
}

func kubernetes(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	found := objects{named: make(map[string]bool)}
	for i, document := range bytes.Split(text, []byte("\n---\n")) {
		if err := found.add(document); err != nil {
			return fmt.Errorf("%s: document %d: %w", file, i+1, err)
		}
	}
	if err := found.check(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// add decodes an object strictly: unknown and duplicate fields are errors.
func (o *objects) add(document []byte) error {
	var head struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
	}
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	var into any
	switch kind := head.APIVersion + " " + head.Kind; kind {
	case "v1 Namespace":
		into = new(core.Namespace)
	case "v1 Secret":
		into = new(core.Secret)
	case "v1 ConfigMap":
		into = new(core.ConfigMap)
	case "v1 Service":
		o.service = new(core.Service)
		into = o.service
	case "apps/v1 StatefulSet":
		o.workload = new(apps.StatefulSet)
		into = o.workload
	default:
		return fmt.Errorf("unknown kind %q; add it to deploy/check", kind)
	}
	o.named[head.Kind+" "+head.Metadata.Name] = true
	return yaml.UnmarshalStrict(document, into)
}

// check checks what refers to something else.
func (o *objects) check() error {
	if o.workload == nil || o.service == nil {
		return errors.New("there is no StatefulSet or no Service")
	}
	spec, pod := o.workload.Spec, o.workload.Spec.Template.Spec
	var problems []error
	wants := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	volumes := make(map[string]bool)
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil {
			wants(o.named["ConfigMap "+v.ConfigMap.Name], "volume %s: no ConfigMap %s", v.Name, v.ConfigMap.Name)
		}
		if v.Secret != nil {
			wants(o.named["Secret "+v.Secret.SecretName], "volume %s: no Secret %s", v.Name, v.Secret.SecretName)
		}
	}
	for _, claim := range spec.VolumeClaimTemplates {
		volumes[claim.Name] = true
	}
	ports, numbers := make(map[string]bool), make(map[string]bool)
	for _, c := range pod.Containers {
		for _, p := range c.Ports {
			ports[p.Name], numbers[fmt.Sprint(p.ContainerPort)] = true, true
		}
		for _, m := range c.VolumeMounts {
			wants(volumes[m.Name], "container %s mounts the volume %s, which does not exist", c.Name, m.Name)
		}
		for name, probe := range map[string]*core.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil {
				wants(false, "container %s has no %s probe by HTTP", c.Name, name)
				continue
			}
			wants(ports[probe.HTTPGet.Port.String()], "the %s probe asks port %s, which does not exist", name, probe.HTTPGet.Port.String())
			wants(strings.Contains(probe.HTTPGet.Path, "ready") == (name == "readiness"), "the %s probe asks %s", name, probe.HTTPGet.Path)
		}
	}
	scraped := spec.Template.Annotations["prometheus.io/port"]
	wants(numbers[scraped], "Prometheus is told to scrape port %q, which does not exist", scraped)
	for _, p := range o.service.Spec.Ports {
		wants(ports[p.TargetPort.String()], "the Service leads to port %s, which does not exist", p.TargetPort.String())
	}
	for name, selector := range map[string]map[string]string{"Service": o.service.Spec.Selector, "StatefulSet": spec.Selector.MatchLabels} {
		for key, value := range selector {
			wants(spec.Template.Labels[key] == value, "the %s selects %s=%s, which no pod has", name, key, value)
		}
	}
	wants(spec.ServiceName == o.service.Name, "the StatefulSet has the Service %s, which does not exist", spec.ServiceName)
	return errors.Join(problems...)
}

// compose loads the file by the schema of the Compose Specification, which also
// checks what services refer to.
func compose(file string) error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithEnv([]string{"REGISTRY_HOST=registry.example.com"}), cli.WithProfiles([]string{"*"}))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for _, service := range project.Services {
		for _, volume := range service.Volumes {
			if volume.Type != "bind" {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				return fmt.Errorf("service %s: %w", service.Name, err)
			}
		}
	}
	return monitoring(project)
}
