package main

func init() { dumpOn = true }
