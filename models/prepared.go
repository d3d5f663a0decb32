package models

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
)

// maxPrepared bounds how many statements are kept; our methods make a few dozen texts.
const maxPrepared = 256

// prepared keeps statements by their text: on SQLite to parse a statement costs more than to run it. The statements belong
// to it, and nobody else closes them. It takes our own parameters, $N, for SQLite's ?N.
type prepared struct {
	on interface {
		PrepareContext(ctx context.Context, text string) (*sql.Stmt, error)
	}
	mu         sync.RWMutex
	statements map[string]*sql.Stmt
}

func (p *prepared) get(ctx context.Context, text string) (*sql.Stmt, error) {
	p.mu.RLock()
	stmt, ok := p.statements[text]
	p.mu.RUnlock()
	if ok {
		return stmt, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if stmt, ok := p.statements[text]; ok {
		return stmt, nil
	}
	stmt, err := p.on.PrepareContext(ctx, bindSQLite(text))
	if err != nil {
		return nil, err
	}
	if p.statements == nil || len(p.statements) >= maxPrepared {
		_ = p.closeAll() // a statement that can't be closed is no reason to refuse this one
		p.statements = map[string]*sql.Stmt{}
	}
	p.statements[text] = stmt
	return stmt, nil
}

func bindSQLite(sql string) string { return strings.ReplaceAll(sql, "$", "?") }

func (p *prepared) closeAll() error {
	var failed error
	for _, stmt := range p.statements {
		failed = errors.Join(failed, stmt.Close())
	}
	p.statements = nil
	return failed
}

func (p *prepared) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closeAll()
}
