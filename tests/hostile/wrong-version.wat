;; Exports the handler of a contract that this host does not speak.
(module
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@9.0.0#handle")))
