package modelstest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patroniNodes is the number of PostgreSQL servers of a Patroni cluster.
const patroniNodes = 2

// Patroni is a cluster of PostgreSQL servers like those that operators run. Patroni chooses the primary with etcd, and
// HAProxy forwards connections to the primary. A commit waits for the standby. The cluster ends with the test.
type Patroni struct {
	sandbox
	ports patroniPorts
}

type patroniPorts struct {
	etcd, etcdPeer, proxy int
	api, postgres         [patroniNodes]int
}

// StartPatroni starts a cluster, and returns once it has a standby that commits wait for.
func StartPatroni(t testing.TB) *Patroni {
	t.Helper()
	for _, program := range []string{"patroni", "etcd", "haproxy"} {
		if _, err := findProgram(program); err != nil {
			t.Fatal(program + " is needed: apt-get install patroni etcd-server haproxy")
		}
	}
	var p Patroni
	var err error
	for _, port := range []*int{
		&p.ports.etcd, &p.ports.etcdPeer, &p.ports.proxy, &p.ports.api[0], &p.ports.api[1], &p.ports.postgres[0], &p.ports.postgres[1],
	} {
		if *port, err = freePort(); err != nil {
			t.Fatal(err)
		}
	}
	if p.sandbox, err = newSandbox(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(p.dir) }) // after the programs have ended
	etcd, peer := p.address(p.ports.etcd), p.address(p.ports.etcdPeer)
	p.run(t, "etcd", "etcd", "--data-dir", filepath.Join(p.dir, "etcd"), "--log-level", "error", "--unsafe-no-fsync",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	for i := range patroniNodes {
		p.run(t, node(i), "patroni", p.configure(t, node(i)+".json", p.nodeConfig(i)))
	}
	p.run(t, "haproxy", "haproxy", "-db", "-f", p.configure(t, "haproxy.cfg", p.proxyConfig()))
	p.await(t, "a standby that commits wait for", func() bool { return p.find("sync_standby") != "" && p.find("leader") != "" })
	return &p
}

// URL returns the URL of a database of the primary, at an address that never changes. HAProxy ends the connections to a server
// that is no longer the primary.
func (p *Patroni) URL(db string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(superuser, p.password), Path: "/" + db, RawQuery: "sslmode=disable"}
	u.Host = strings.TrimPrefix(p.address(p.ports.proxy), "http://")
	return u.String()
}

// Switchover makes the standby the primary, as an operator does, and returns when Patroni says so.
func (p *Patroni) Switchover(t testing.TB) {
	t.Helper()
	p.await(t, "a standby to switch to", func() bool { return p.find("sync_standby") != "" })
	cmd := p.program("patronictl", "-c", filepath.Join(p.dir, node(0)+".json"), "switchover", "--force")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("patronictl switchover: %v\n%s", err, out)
	}
}

// CrashPrimary kills the primary, and returns when Patroni has another.
func (p *Patroni) CrashPrimary(t testing.TB) {
	t.Helper()
	p.await(t, "a standby to take over", func() bool { return p.find("sync_standby") != "" })
	was := p.find("leader")
	file, err := os.ReadFile(filepath.Join(p.dir, was, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(file), "\n")
	pid, err := strconv.Atoi(first)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.await(t, "another primary", func() bool { now := p.find("leader"); return now != "" && now != was })
}

func node(i int) string { return "node" + strconv.Itoa(i) }

func (p *Patroni) address(port int) string { return "http://127.0.0.1:" + strconv.Itoa(port) }

// nodeConfig returns the configuration of a node. JSON is YAML as well.
func (p *Patroni) nodeConfig(i int) string {
	type object = map[string]any
	user := func(name string) object { return object{"username": name, "password": p.password} }
	api := "127.0.0.1:" + strconv.Itoa(p.ports.api[i])
	server := "127.0.0.1:" + strconv.Itoa(p.ports.postgres[i])
	config, _ := json.Marshal(object{ // of texts and numbers
		"scope": "aikeys", "name": node(i),
		"restapi": object{"listen": api, "connect_address": api},
		"etcd3":   object{"hosts": strings.TrimPrefix(p.address(p.ports.etcd), "http://"), "protocol": "http"},
		"bootstrap": object{
			"dcs": object{
				"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "synchronous_mode": true,
				"primary_start_timeout": 0, "master_start_timeout": 0, // both names; a crashed primary is replaced at once
				"postgresql": object{"use_pg_rewind": true},
			},
			"initdb": []any{object{"encoding": "UTF8"}, object{"locale": "C"}, "no-sync"},
			"pg_hba": []string{"local all all md5", "host all all 127.0.0.1/32 md5", "host replication all 127.0.0.1/32 md5"},
		},
		"postgresql": object{
			"listen": server, "connect_address": server, "bin_dir": p.bin,
			"data_dir": filepath.Join(p.dir, node(i)), "pgpass": filepath.Join(p.dir, node(i)+".pgpass"),
			"authentication": object{"superuser": user(superuser), "replication": user("replicator"), "rewind": user("rewinder")},
			"parameters": object{
				"unix_socket_directories": p.dir, "fsync": "off", "dynamic_shared_memory_type": "mmap",
			},
		},
	})
	return string(config)
}

// proxyConfig returns the configuration of HAProxy, as in Patroni's documentation.
func (p *Patroni) proxyConfig() string {
	config := fmt.Sprintf(`defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
listen primary
  bind 127.0.0.1:%d
  option httpchk OPTIONS /primary
  http-check expect status 200
  default-server inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
`, p.ports.proxy)
	for i := range patroniNodes {
		config += fmt.Sprintf("  server %s 127.0.0.1:%d check port %d\n", node(i), p.ports.postgres[i], p.ports.api[i])
	}
	return config
}

func (p *Patroni) configure(t testing.TB, name, content string) (path string) {
	t.Helper()
	path = filepath.Join(p.dir, name)
	if err := p.write(path, content); err != nil {
		t.Fatal(err)
	}
	return path
}

// findProgram returns the path of a program, which may be in a folder that only root has in PATH.
func findProgram(name string) (string, error) {
	if path, err := osexec.LookPath(name); err == nil {
		return path, nil
	}
	return osexec.LookPath("/usr/sbin/" + name)
}

func (p *Patroni) program(name string, args ...string) *osexec.Cmd {
	path, _ := findProgram(name) // StartPatroni has found it
	cmd := p.command(path, args...)
	cmd.Env = append(cmd.Env, "LC_ALL=C.UTF-8")
	return cmd
}

// run runs a program until the test ends. Patroni stops its server when it is asked to stop.
func (p *Patroni) run(t testing.TB, name, program string, args ...string) {
	t.Helper()
	cmd := p.program(program, args...)
	exited, err := p.start(cmd, name+".log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(stopTimeout):
			t.Errorf("%s did not stop within %s", name, stopTimeout)
			_ = cmd.Process.Kill()
			<-exited
		}
	})
}

// find returns the name of the cluster's running server in a role, or "" if no node knows one.
func (p *Patroni) find(role string) string {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for i := range patroniNodes {
		var view struct {
			Members []struct {
				Name  string `json:"name"`
				Role  string `json:"role"`
				State string `json:"state"`
			} `json:"members"`
		}
		response, err := client.Get(p.address(p.ports.api[i]) + "/cluster") //nolint:noctx // the client has a timeout
		if err != nil {
			continue
		}
		err = json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&view)
		_ = response.Body.Close()
		for _, m := range view.Members {
			if err == nil && m.Role == role && m.State == "running" {
				return m.Name
			}
		}
	}
	return ""
}

func (p *Patroni) await(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(startTimeout); !happened(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			logs := ""
			for _, name := range []string{"etcd", node(0), node(1), "haproxy"} {
				logs += "\n" + name + ":\n" + p.logTail(name+".log")
			}
			t.Fatalf("no %s within %s%s", what, startTimeout, logs)
		}
	}
}
