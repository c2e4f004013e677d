// Package proof is the audit log as a stranger sees it: what is signed, what
// is exported, and how both are verified without the cluster.
//
// FORMAT.md describes every byte; testdata has records, hashes, proofs,
// checkpoints and keys to check another implementation against, and
// verify.py is one, in Python's standard library.
//
// Each shard's records are the leaves of a Merkle tree (RFC 6962, SHA-256). A
// [Checkpoint] states the size and root of all of them and is signed by nodes.
// An export has the records a checkpoint covers, a line each; [Verify] reads
// it in constant memory and names the first fault. A [RecordProof] shows one
// record. What was archived and deleted is represented by the peaks of its
// tree, so that the rest stays verifiable; [VerifyArchive] reads the archive.
//
// The package is as pure as ledger: it reads no clock, file or network.
package proof
