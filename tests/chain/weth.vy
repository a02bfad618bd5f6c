# pragma version 0.4.3
# Wrapped native token: what WETH9 does, as far as unwrapping goes.

balanceOf: public(HashMap[address, uint256])


@external
@payable
def deposit():
    self.balanceOf[msg.sender] += msg.value


@external
def withdraw(amount: uint256):
    self.balanceOf[msg.sender] -= amount
    send(msg.sender, amount)
