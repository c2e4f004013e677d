// Package tidy keeps the shape of the source as tests; it holds nothing else.
//
// What is checked, over every Go file of the main module: which package may
// import which; that package ledger is pure (no clock, randomness, I/O, lock,
// goroutine, channel or float, so that every replica decides alike); that no
// library ends its process or takes its signals; that files, functions and
// doc.go stay short; that no debt marker, machine path, silent skip or vague name
// gets in. Sizes have a ratchet, testdata/ratchet.txt: what was too long when the
// rule came may shrink, never grow, and leaves the list once it fits.
//
// The tests run each rule over testdata/planted as well, a small tree that
// breaks all of them, because a rule that finds nothing may be looking nowhere.
package tidy
