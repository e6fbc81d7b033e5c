package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"
)

// mounts are the files that a service sees, by their path in the container.
func mounts(service types.ServiceConfig) map[string]string {
	files := make(map[string]string)
	for _, v := range service.Volumes {
		if v.Type == types.VolumeTypeBind {
			files[v.Target] = v.Source
		}
	}
	return files
}

// monitoring checks that what the configurations of Prometheus and Grafana name exists:
// services, and files that are mounted.
func monitoring(project *types.Project) error {
	prometheus, err := project.GetService("prometheus")
	if err != nil {
		return err
	}
	grafana, err := project.GetService("grafana")
	if err != nil {
		return err
	}
	if err := checkPrometheus(project, mounts(prometheus)); err != nil {
		return fmt.Errorf("prometheus: %w", err)
	}
	if err := checkGrafana(project, mounts(grafana)); err != nil {
		return fmt.Errorf("grafana: %w", err)
	}
	return nil
}

func checkPrometheus(project *types.Project, files map[string]string) error {
	var config struct {
		Global        map[string]string `json:"global"`
		RuleFiles     []string          `json:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `json:"job_name"`
			StaticConfigs []struct {
				Targets []string `json:"targets"`
			} `json:"static_configs"`
		} `json:"scrape_configs"`
	}
	if err := read(files["/etc/prometheus/prometheus.yml"], &config); err != nil {
		return err
	}
	for _, name := range config.RuleFiles {
		if files[name] == "" {
			return fmt.Errorf("the rules %s are not mounted", name)
		}
	}
	for _, scrape := range config.ScrapeConfigs {
		for _, static := range scrape.StaticConfigs {
			for _, target := range static.Targets {
				if err := reaches(project, target); err != nil {
					return fmt.Errorf("job %s: %w", scrape.JobName, err)
				}
			}
		}
	}
	return nil
}

func checkGrafana(project *types.Project, files map[string]string) error {
	var sources struct {
		APIVersion  int `json:"apiVersion"`
		Datasources []struct {
			Name      string            `json:"name"`
			UID       string            `json:"uid"`
			Type      string            `json:"type"`
			Access    string            `json:"access"`
			URL       string            `json:"url"`
			IsDefault bool              `json:"isDefault"`
			JSONData  map[string]string `json:"jsonData"`
		} `json:"datasources"`
	}
	if err := read(files["/etc/grafana/provisioning/datasources/prometheus.yml"], &sources); err != nil {
		return err
	}
	for _, source := range sources.Datasources {
		address, err := url.Parse(source.URL)
		if err == nil {
			err = reaches(project, address.Host)
		}
		if err != nil {
			return fmt.Errorf("data source %s: %w", source.Name, err)
		}
	}
	var boards struct {
		APIVersion int `json:"apiVersion"`
		Providers  []struct {
			Name           string            `json:"name"`
			Type           string            `json:"type"`
			AllowUIUpdates bool              `json:"allowUiUpdates"`
			Options        map[string]string `json:"options"`
		} `json:"providers"`
	}
	if err := read(files["/etc/grafana/provisioning/dashboards/dependency-proxy.yml"], &boards); err != nil {
		return err
	}
	for _, provider := range boards.Providers {
		mounted := false
		for file := range files {
			mounted = mounted || path.Dir(file) == provider.Options["path"] && strings.HasSuffix(file, ".json")
		}
		if !mounted {
			return fmt.Errorf("no dashboard is mounted in %s", provider.Options["path"])
		}
	}
	return nil
}

// read decodes a file strictly: unknown fields are errors.
func read(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// reaches checks that an address is that of a service.
func reaches(project *types.Project, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err == nil {
		_, err = project.GetService(host)
	}
	return err
}
