package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"

	"github.com/quorate/quorate/node/client"
)

// cli is every command and flag.
type cli struct {
	Config kong.ConfigFlag `env:"-" help:"YAML file with flags as keys (data-dir: /var/lib/quorate). QUORATE_* and flags win over it." placeholder:"FILE"`

	Start      startCmd      `cmd:"" help:"Run a node."`
	Dev        devCmd        `cmd:"" help:"Run a whole cluster in this process, on loopback, for trying things."`
	Submit     submitCmd     `cmd:"" help:"Submit tasks."`
	Task       taskCmd       `cmd:"" help:"Look at tasks and change them."`
	Action     actionCmd     `cmd:"" help:"Have an effect once."`
	Agent      agentCmd      `cmd:"" help:"Run and list agents."`
	Ledger     ledgerCmd     `cmd:"" help:"Read and verify the audit ledger."`
	Compliance complianceCmd `cmd:"" help:"Rule packs: what agents must say, or ask, before they act."`
	Node       nodeCmd       `cmd:"" help:"List and change the cluster's nodes."`
	Status     statusCmd     `cmd:"" help:"Show nodes, shards, queues and agents."`
	Doctor     doctorCmd     `cmd:"" help:"Check the layers one by one and say what to do."`
	Backup     backupCmd     `cmd:"" help:"Back up a running cluster."`
	Restore    restoreCmd    `cmd:"" help:"Make a new cluster of a backup, or of the survivor of a lost quorum."`
	Bench      benchCmd      `cmd:"" help:"Measure."`
	Chaos      chaosCmd      `cmd:"" help:"Break clusters and check them."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

// apiFlags are how a client command finds the cluster.
type apiFlags struct {
	API   []string `name:"api" help:"Nodes' API addresses, comma-separated." default:"http://127.0.0.1:7700" env:"QUORATE_API"`
	Token string   `help:"Bearer token." env:"QUORATE_TOKEN"`
	// Patience is counted from the first failure: a long wait for an answer is
	// not impatience.
	Patience time.Duration `default:"10s" help:"How long to try again while no node gives a decision; 0 for ever."`
	// For https:// addresses: a proxy's, or an embedded node's.
	TLSCA   string `name:"tls-ca" placeholder:"FILE" help:"CA certificates (PEM) to check https:// addresses with; default: the system's." env:"QUORATE_TLS_CA"`
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"Certificate (PEM) to show them." env:"QUORATE_TLS_CERT"`
	TLSKey  string `name:"tls-key" placeholder:"FILE" help:"Its private key (PEM)." env:"QUORATE_TLS_KEY"`
}

func (f apiFlags) client() (*client.Client, error) { return f.patient(f.Patience) }

// patient makes a client that tries again for so long; 0 is for ever.
func (f apiFlags) patient(patience time.Duration) (*client.Client, error) {
	conf, err := f.tls()
	if err != nil {
		return nil, usageError{err}
	}
	c, err := client.New(client.Config{URLs: f.API, Token: f.Token, Patience: patience, TLS: conf})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

func (f apiFlags) tls() (*tls.Config, error) {
	if f.TLSCA == "" && f.TLSCert == "" && f.TLSKey == "" {
		return nil, nil
	}
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return nil, errors.New("--tls-cert and --tls-key go together")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.TLSCA != "" {
		b, err := os.ReadFile(f.TLSCA)
		if err != nil {
			return nil, fmt.Errorf("--tls-ca: %w", err)
		}
		if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("--tls-ca: %s has no certificate in PEM", f.TLSCA)
		}
	}
	if f.TLSCert != "" {
		c, err := tls.LoadX509KeyPair(f.TLSCert, f.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		conf.Certificates = []tls.Certificate{c}
	}
	return conf, nil
}

// yamlConfig reads a flat YAML file whose keys are flag names; a key that is
// no flag is an error.
func yamlConfig(r io.Reader) (kong.Resolver, error) {
	var values map[string]any
	if err := yaml.NewDecoder(r).Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return &yamlResolver{values}, nil
}

type yamlResolver struct{ values map[string]any }

// Validate refuses keys that no command has a flag for.
func (y *yamlResolver) Validate(app *kong.Application) error {
	known := map[string]bool{}
	_ = kong.Visit(app, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok {
			known[f.Name] = true
		}
		return next(nil)
	})
	for key := range y.values {
		if !known[key] {
			return fmt.Errorf("configuration file: there is no flag %q", key)
		}
	}
	return nil
}

// Resolve implements kong.Resolver. What the environment sets, it leaves.
func (y *yamlResolver) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	v, ok := y.values[f.Name]
	if !ok || slices.ContainsFunc(f.Envs, func(name string) bool { _, set := os.LookupEnv(name); return set }) {
		return nil, nil
	}
	if list, ok := v.([]any); ok {
		parts := make([]string, len(list))
		for i, x := range list {
			parts[i] = fmt.Sprint(x)
		}
		return strings.Join(parts, ","), nil
	}
	if pairs, ok := v.(map[string]any); ok {
		parts := make([]string, 0, len(pairs))
		for k, x := range pairs {
			parts = append(parts, fmt.Sprintf("%s=%v", k, x))
		}
		slices.Sort(parts)
		return strings.Join(parts, ","), nil
	}
	return fmt.Sprint(v), nil
}
